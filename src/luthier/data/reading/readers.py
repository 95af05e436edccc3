"""Bytes of a file -> rows, with every fault named by row, line and column."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

from luthier.data.reading.places import LineStarts, Place
from luthier.data.sources.base import FileSource
from luthier.data.table import Problems, Table, listing, place, shorten
from luthier.errors import DataError

FIX_ROWS = "correct or remove these rows"
BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


@dataclass(frozen=True)
class ReadOptions:
    """How a file is read.

    Attributes:
        format: csv, tsv, jsonl, json, parquet, txt or conll; None goes by the file's name.
        delimiter: field separator of csv and tsv.
        column_names: columns of csv and tsv files without a header line.
        encoding: of text files.
        max_line_bytes: longest line that is believed.
    """

    format: str | None = None
    delimiter: str | None = None
    column_names: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    max_line_bytes: int = 8_000_000


@dataclass(frozen=True)
class Row:
    """One row of a text file: its number from 1, the line it starts at, and its cells."""

    number: int
    line: int
    cells: dict[str, Any]


def read_table(source: FileSource, options: ReadOptions) -> Table:
    """All rows of a file.

    Raises:
        DataError: the file is empty or damaged; lists every row with a problem.
    """
    kind = _format_of(source, options)
    if kind == "parquet":
        return _read_parquet(source)
    if kind == "json":
        return _read_json(source, options)
    problems = Problems(source.name)
    rows = list(iterate_rows(source, options, problems))
    problems.raise_if_any(FIX_ROWS)
    if not rows:
        raise DataError("the file has no rows", where=source.name, fix="is it the right file?")
    return Table.of_records(source.name, [row.cells for row in rows], [row.line for row in rows])


def iterate_rows(
    source: FileSource, options: ReadOptions, problems: Problems, place: Place | None = None
) -> Iterator[Row]:
    """Rows of a csv, tsv, jsonl, txt or conll file, one at a time; faulty rows are noted and left out.

    Args:
        source, options: the file, and how it is read.
        problems: takes note of faulty rows.
        place: where to begin in a csv, tsv, jsonl or txt file, at its start by default; it moves along with the rows.
            From behind a header line, `options` have to name the columns.

    Raises:
        DataError: the file as a whole can't be read.
    """
    kind = _format_of(source, options)
    start = Place() if place is None else replace(place)
    with source.open() as stream:
        lines = _lines_from(stream, source.name, options, place)
        if kind in ("csv", "tsv"):
            rows = _delimited(lines, kind, source.name, options, problems, start)
        elif kind == "jsonl":
            rows = _json_lines(lines, problems, start.row)
        elif kind == "conll":
            rows = _conll(lines, problems)
        else:
            rows = (Row(number, number, {"text": line}) for number, line in lines if line.strip())
        for row in rows:
            if place is not None:
                place.row = row.number
            yield row


def _lines_from(stream: IO[bytes], name: str, options: ReadOptions, place: Place | None) -> Iterator[tuple[int, str]]:
    """The lines behind a place, which is moved behind each as it is given. Of an encoding in which a line break is more
    than one byte, all lines are read again."""
    if place is None:
        yield from decoded_lines(stream, name, options)
        return
    first = place.line
    if _breaks_lines_as_ascii(name, options):
        starts: Any = LineStarts(stream, place)
        lines = decoded_lines(starts, name, options, replace(place))
    else:
        starts, lines = None, decoded_lines(stream, name, options)
    for number, line in lines:
        if number > first:
            place.line = number
            if starts is not None:
                place.offset = starts.behind(number)
            yield number, line


def _format_of(source: FileSource, options: ReadOptions) -> str:
    kind = options.format or source.format
    if kind is None:
        raise DataError(
            "the name of the file does not tell its format",
            where=source.name,
            fix="set `format` to csv, tsv, jsonl, json, parquet, txt or conll",
        )
    return kind


def decoded_lines(
    stream: IO[bytes], name: str, options: ReadOptions, start: Place | None = None
) -> Iterator[tuple[int, str]]:
    """Number and text of every line, without its line break.

    Args:
        stream, name, options: the bytes, what messages call them, and how they are read.
        start: where in the file the stream is, if not at its start.

    Raises:
        DataError: empty file, NUL byte, bytes that are not in the encoding, or a line that is too long.
    """
    held_something = start is not None and start.line > 0
    if _breaks_lines_as_ascii(name, options):
        lines = _byte_lines(stream, name, options, start or Place())
    else:
        lines = _character_lines(stream, name, options)
    for number, text in lines:
        line = text.rstrip("\r\n")
        held_something = held_something or bool(line.strip())
        yield number, line
    if not held_something:
        raise DataError("the file is empty", where=name, fix="is it the right file?")


def _breaks_lines_as_ascii(name: str, options: ReadOptions) -> bool:
    try:
        return "\n".encode(options.encoding) == b"\n"
    except (LookupError, ValueError) as error:
        raise DataError(
            f"there is no encoding called {options.encoding!r} for text",
            where=name,
            fix="set `encoding` to what the file has, such as utf-8, utf-16 or latin-1",
        ) from error


def _byte_lines(stream: IO[bytes], name: str, options: ReadOptions, start: Place) -> Iterator[tuple[int, str]]:
    offset, number = start.offset, start.line
    while raw := stream.readline(options.max_line_bytes + 1):
        number += 1
        if len(raw) > options.max_line_bytes:
            raise _too_long(stream, len(raw), number, name, options)
        mark = _mark_length(raw, name, options) if number == 1 else 0
        yield number, _decode(raw[mark:], offset + mark, number, name, options)
        offset += len(raw)


def _character_lines(stream: IO[bytes], name: str, options: ReadOptions) -> Iterator[tuple[int, str]]:
    """Lines of an encoding such as UTF-16, in which a line break is not the one byte that it is in ASCII."""
    reader, number = io.TextIOWrapper(stream, options.encoding, newline="\n"), 0
    try:
        while text := reader.readline(options.max_line_bytes + 1):
            number += 1
            if len(text) > options.max_line_bytes:
                raise _too_long(reader, len(text), number, name, options)
            if "\0" in text:
                raise _holds_nul(f"line {number}", name, options)
            yield number, text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeError as error:
        raise DataError(
            f"line {number + 1}, or one soon after it, is not valid {options.encoding}: "
            f"{getattr(error, 'reason', error)}",
            where=name,
            fix="set `encoding` to what the file has, such as utf-8 or utf-16-le, or save the file as UTF-8",
        ) from error


def _mark_length(raw: bytes, name: str, options: ReadOptions) -> int:
    other = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if raw.startswith(mark)), None)
    if other and options.encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        raise DataError(
            f"the file starts with the byte order mark of {other}",
            where=name,
            fix=f"set `encoding: {other}`, or save it as UTF-8",
        )
    return 3 if raw.startswith(b"\xef\xbb\xbf") else 0


def _too_long(stream: IO[Any], length: int, number: int, name: str, options: ReadOptions) -> DataError:
    while part := stream.readline(1 << 20):
        length += len(part)
        if part[-1:] in ("\n", b"\n"):
            break
    return DataError(
        f"line {number} is {length / 1e6:.1f} MB long; more than {options.max_line_bytes / 1e6:g} MB is not believed",
        where=name,
        fix="is it the format its name says, with one example a line? If so, raise `max_line_megabytes`",
    )


def _decode(raw: bytes, offset: int, number: int, name: str, options: ReadOptions) -> str:
    if b"\0" in raw:
        raise _holds_nul(f"line {number}", name, options, f", at byte {offset + raw.index(0)} of the file")
    try:
        return raw.decode(options.encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"line {number} is not valid {options.encoding}: byte 0x{raw[error.start]:02x} "
            f"at byte {offset + error.start} of the file",
            where=name,
            fix="save the file as UTF-8, or set `encoding` to what it is, such as latin-1",
        ) from error
    except UnicodeError as error:
        raise DataError(f"line {number} is not valid {options.encoding}: {error}", where=name) from error


def _holds_nul(line: str, name: str, options: ReadOptions, place: str = "") -> DataError:
    return DataError(
        f"{line} holds a NUL byte{place}",
        where=name,
        fix=f"the file is binary, damaged, or not {options.encoding.upper()} text: "
        "set `encoding` to what it is, or save it as UTF-8 text",
    )


def _delimited(
    lines: Iterator[tuple[int, str]], kind: str, name: str, options: ReadOptions, problems: Problems, behind: Place
) -> Iterator[Row]:
    records = _quoted(lines, name, options, behind) if kind == "csv" else _unquoted(lines, options.delimiter or "\t")
    header = list(options.column_names) if options.column_names else None
    number = behind.row
    for line, cells in records:
        if not cells or cells == [""]:
            continue
        if header is None:
            header = _checked_header(cells, name)
            continue
        number += 1
        if len(cells) != len(header):
            problems.add(place(number, line), f"has {len(cells)} fields, but there are {len(header)} columns")
            continue
        yield Row(number, line, dict(zip(header, cells, strict=True)))


def _unquoted(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        yield number, line.split(delimiter)


def _quoted(
    lines: Iterator[tuple[int, str]], name: str, options: ReadOptions, behind: Place
) -> Iterator[tuple[int, list[str]]]:
    current = [behind.line]

    def feed() -> Iterator[str]:
        for number, line in lines:
            current[0] = number
            yield line + "\n"

    csv.field_size_limit(max(csv.field_size_limit(), options.max_line_bytes))
    reader = csv.reader(feed(), delimiter=options.delimiter or ",", strict=True)
    start = behind.line + 1
    try:
        for cells in reader:
            yield start, cells
            start = current[0] + 1
    except csv.Error as error:
        raise DataError(
            f"the row that starts at line {start} is not valid csv: {error}",
            where=name,
            fix="look for a quote that is not closed; a quote inside a quoted field is written twice",
        ) from error


def _checked_header(cells: list[str], name: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(
            f"the header names a column twice: {listing(map(repr, twice))}",
            where=name,
            fix="rename one; if the file has no header line, set `column_names`",
        )
    return names


def _json_lines(lines: Iterator[tuple[int, str]], problems: Problems, number: int = 0) -> Iterator[Row]:
    for line, text in lines:
        if not text.strip():
            continue
        number += 1
        try:
            record = json.loads(text)
        except (json.JSONDecodeError, RecursionError, ValueError) as error:
            reason = (
                f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            )
            problems.add(place(number, line), f"is not valid JSON: {reason}")
            continue
        if not isinstance(record, dict):
            problems.add(place(number, line), f"is {shorten(record)}, not an object with named fields")
            continue
        yield Row(number, line, record)


def _conll(lines: Iterator[tuple[int, str]], problems: Problems) -> Iterator[Row]:
    number, start = 1, 1
    tokens: list[str] = []
    tags: list[str] = []
    for line, text in itertools.chain(lines, [(0, "")]):
        if not text.strip() or text.startswith("-DOCSTART-"):
            if tokens:
                yield Row(number, start, {"tokens": tokens, "tags": tags})
                number, tokens, tags = number + 1, [], []
            continue
        parts = text.split("\t") if "\t" in text else text.split()
        if len(parts) < 2 or not parts[0].strip():
            problems.add(place(number, line), f"{shorten(text)} is not a word and its tag")
            continue
        start = start if tokens else line
        tokens.append(parts[0])
        tags.append(parts[-1].strip())


def _read_parquet(source: FileSource) -> Table:
    import pyarrow
    import pyarrow.parquet

    content = source.read()
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(
            f"is not a whole parquet file: {error}", where=source.name, fix="copy or write the file again"
        ) from error
    if not table.num_rows:
        raise DataError("the file has no rows", where=source.name, fix="is it the right file?")
    return Table(source.name, columns)


def _read_json(source: FileSource, options: ReadOptions) -> Table:
    value = parse_json(source, options)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"the columns differ in length: {lengths}",
                where=source.name,
                fix="give every column one value for each example, or write a list of objects",
            )
        return Table(source.name, value)
    if not isinstance(value, list):
        raise DataError(
            "is neither a list of objects nor an object of columns",
            where=source.name,
            fix="write a list of objects, one for each example",
        )
    problems = Problems(source.name)
    for number, record in enumerate(value, start=1):
        if not isinstance(record, dict):
            problems.add(place(number), f"is {shorten(record)}, not an object with named fields")
    problems.raise_if_any(FIX_ROWS)
    if not value:
        raise DataError("the file has no rows", where=source.name, fix="is it the right file?")
    return Table.of_records(source.name, value)


def parse_json(source: FileSource, options: ReadOptions) -> Any:
    """The value in a json file, whose lines may have any length.

    Raises:
        DataError: it is empty, not text in the encoding, or not valid JSON.
    """
    stream = io.BytesIO(source.read())
    whole = ReadOptions(encoding=options.encoding, max_line_bytes=max(1, stream.getbuffer().nbytes))
    text = "\n".join(line for _, line in decoded_lines(stream, source.name, whole))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not valid JSON: {error.msg} at line {error.lineno}, character {error.colno}",
            where=source.name,
            fix="if the file has one object a line, name it .jsonl or set `format: jsonl`",
        ) from error
    except RecursionError as error:
        raise DataError(
            "the JSON is nested too deeply", where=source.name, fix="is it a list of objects, one for each example?"
        ) from error
    except ValueError as error:
        raise DataError(f"is not valid JSON: {error}", where=source.name) from error


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None or a float NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))
