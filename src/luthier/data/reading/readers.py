"""Bytes of a file -> rows, with every fault named by row, line and column."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Any, NamedTuple, TypeVar

from luthier.data.left_out import settle
from luthier.data.reading import conll
from luthier.data.reading.lines import (
    BYTE_ORDER_MARKS,
    ReadOptions,
    breaks_lines_as_ascii,
    decoded_blocks,
    decoded_lines,
)
from luthier.data.reading.places import LineStarts, Place
from luthier.data.reading.table_builder import TableBuilder
from luthier.data.sources.base import FileSource
from luthier.data.table import Problems, Table, listing, place, shorten
from luthier.errors import DataError

__all__ = ["BYTE_ORDER_MARKS", "ReadOptions", "Row", "decoded_lines", "iterate_rows", "read_table"]
# A first line of a csv file that tells Excel the separator; one of a json file that is no object a line.
_SEPARATOR = re.compile(r'"?sep=(\W)"?', re.IGNORECASE)
_PART = re.compile(r"\{$|\[\s*(\{|$)")
_BLANKS = re.compile(r"\s*")
FIX_ROWS = "correct or remove these rows"
T = TypeVar("T")
# Rows that are checked and put into columns together.
_TOGETHER = 2048


class Row(NamedTuple):
    """One row of a text file: its number from 1, the line it starts at, and its cells."""

    number: int
    line: int
    cells: dict[str, Any]


def read_table(source: FileSource, options: ReadOptions, noted: Problems | None = None) -> Table:
    """All rows of a file.

    Args:
        source, options: the file, and how it is read.
        noted: takes note of rows that can't be read, which are left out then; None refuses them.

    Raises:
        DataError: the file is empty or damaged; lists every row with a problem.
    """
    kind = _format_of(source, options)
    if kind == "parquet":
        return _read_parquet(source)
    if kind == "json":
        return _read_json(source, options, noted)
    problems, table = Problems(source.name), TableBuilder(source.name)
    if kind in ("csv", "tsv"):
        with source.open() as stream:
            blocks = decoded_blocks(stream, source.name, options)
            _fill_delimited(table, blocks, kind, options, problems)
    else:
        rows = iterate_rows(source, options, problems)
        for some in _in_runs(rows, _TOGETHER):
            first = len(table) + 1
            numbers = range(first, first + len(some)) if kind == "txt" else [row.number for row in some]
            table.add_records([row.cells for row in some], numbers, [row.line for row in some])
    settle(problems, noted, len(table), FIX_ROWS)
    if not len(table):
        raise DataError("the file has no rows", where=source.name, fix="is it the right file?")
    return table.table()


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
            rows = _conll(lines, problems, tagged=options.tagged)
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
    if breaks_lines_as_ascii(name, options):
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


class _Delimited:
    """Records of a csv or tsv file as rows: finds the header, numbers the rows, notes those of another length."""

    def __init__(self, name: str, options: ReadOptions, problems: Problems, number: int = 0) -> None:
        self.name, self.problems = name, problems
        self.header = list(options.column_names) if options.column_names else None
        self.number, self._first = number, bool(options.column_names) and not number

    def row(self, line: int, cells: list[str]) -> Row | None:
        """The row that a record is; None for the header, a blank line, and a record that was noted as a problem."""
        if not cells:
            return None
        if self.header is None:
            self.header = _checked_header(cells, self.name)
            return None
        if self._is_header(cells):
            return None
        self.number += 1
        if len(cells) != len(self.header):
            message = f"has {len(cells)} fields, but there are {len(self.header)} columns"
            if any(cell.startswith(' "') for cell in cells):
                message += "; a blank stands in front of a quote, which then quotes nothing: take it out"
            self.problems.add(place(self.number, line), message)
            return None
        return Row(self.number, line, dict(zip(self.header, cells, strict=True)))

    def _is_header(self, cells: list[str]) -> bool:
        """Whether a record is a header line all the same, in a file whose columns were named because others of the
        kind have none."""
        first, self._first = self._first, False
        return first and [cell.strip().lower() for cell in cells] == [name.lower() for name in self.header or ()]

    def add(self, table: TableBuilder, lines: Sequence[int], records: Sequence[list[str]]) -> None:
        """Put records into columns, all at once where all of them are rows."""
        alike = self.header is not None and set(map(len, records)) == {len(self.header)}
        if self.header is not None and alike and not self._first:
            first, self.number = self.number + 1, self.number + len(records)
            table.add_columns(self.header, list(zip(*records, strict=True)), range(first, self.number + 1), lines)
            return
        rows = [row for line, cells in zip(lines, records, strict=True) if (row := self.row(line, cells)) is not None]
        if rows:
            table.add_records([row.cells for row in rows], [row.number for row in rows], [row.line for row in rows])


def _delimited(
    lines: Iterator[tuple[int, str]], kind: str, name: str, options: ReadOptions, problems: Problems, behind: Place
) -> Iterator[Row]:
    records = _records(((number, [line]) for number, line in lines), kind, name, options, behind.line)
    reader = _Delimited(name, options, problems, behind.row)
    yield from (row for record in records if (row := reader.row(*record)) is not None)


def _fill_delimited(
    table: TableBuilder, blocks: Iterator[tuple[int, list[str]]], kind: str, options: ReadOptions, problems: Problems
) -> None:
    reader = _Delimited(table.name, options, problems)
    records = _records(blocks, kind, table.name, options)
    for some in _in_runs(records, _TOGETHER):
        lines, cells = zip(*some, strict=True)
        reader.add(table, lines, cells)


def _in_runs(records: Iterator[T], size: int) -> Iterator[list[T]]:
    """Records some at a time; those before a fault are given before it is raised."""
    run: list[T] = []
    try:
        for record in records:
            run.append(record)
            if len(run) == size:
                yield run
                run = []
    except DataError:
        if run:
            yield run
        raise
    if run:
        yield run


def _records(
    blocks: Iterator[tuple[int, list[str]]], kind: str, name: str, options: ReadOptions, behind: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of every record, but for a first line such as `sep=;`, which tells Excel the separator.

    Raises:
        DataError: it names another separator, or a record is not valid csv.
    """
    records = _quoted(blocks, name, options, behind) if kind == "csv" else _unquoted(blocks, options)
    delimiter = options.delimiter or ("," if kind == "csv" else "\t")
    for line, cells in itertools.islice(records, 1):
        told = named_delimiter(delimiter.join(cells)) if line == 1 else None
        if told is None:
            yield line, cells
        elif told != delimiter:
            raise DataError(
                f"the first line says that the fields are parted by {told!r}",
                where=name,
                fix=f"set `delimiter: {json.dumps(told)}`",
            )
    yield from records


def named_delimiter(line: str) -> str | None:
    """The separator that a first line such as `sep=;` tells Excel; None where it is another line."""
    found = _SEPARATOR.fullmatch(line.strip(" \r\n"))
    return found[1] if found else None


def _unquoted(blocks: Iterator[tuple[int, list[str]]], options: ReadOptions) -> Iterator[tuple[int, list[str]]]:
    delimiter = options.delimiter or "\t"
    for number, lines in blocks:
        yield from enumerate((line.split(delimiter) if line else [] for line in lines), number)


def _quoted(
    blocks: Iterator[tuple[int, list[str]]], name: str, options: ReadOptions, behind: int = 0
) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), options.max_line_bytes))
    fed = (f"{line}\n" for _, lines in blocks for line in lines)
    reader = csv.reader(fed, delimiter=options.delimiter or ",", strict=True)
    start = behind + 1
    try:
        for cells in reader:
            yield start, cells
            start = behind + reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"the row that starts at line {start} is not valid csv: {error}",
            where=name,
            fix="look for a quote that is not closed; a quote inside a quoted field is written twice",
        ) from error


def _checked_header(cells: list[str], name: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if names.count("") > 1:  # as of empty columns that a spreadsheet leaves
        names = [name or f"column{number}" for number, name in enumerate(names, 1)]
    refuse_equal_names(names, name, "the header", "rename one; if the file has no header line, set `column_names`")
    return names


def refuse_equal_names(names: Sequence[str], where: str, what: str = "the schema", fix: str = "rename one") -> None:
    """Refuse a table of which one column could not be told from another.

    Raises:
        DataError: two columns have the same name.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{what} names a column twice: {listing(map(repr, twice))}", where=where, fix=fix)


def _json_lines(lines: Iterator[tuple[int, str]], problems: Problems, number: int = 0) -> Iterator[Row]:
    for line, text in lines:
        if not text.strip():
            continue
        number += 1
        if number == 1 and is_part_of_json(text):
            raise DataError(
                f"line {line} is no object with named fields, but a part of one, or a list",
                where=problems.name,
                fix="set `format: json`, or write one object a line",
            )
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


def is_part_of_json(line: str) -> bool:
    """Whether a first line is that of a json file that does not hold one object a line: a list of objects, or the
    beginning of a value that goes on in the next line."""
    return _PART.match(line.strip()) is not None


def _conll(lines: Iterator[tuple[int, str]], problems: Problems, *, tagged: bool) -> Iterator[Row]:
    number, start = 1, 1
    tokens: list[str] = []
    tags: list[str] = []
    first: list[tuple[int, str]] = []
    for numbered in lines:
        first.append(numbered)
        if conll.may_be_word(numbered[1]):
            break
    universal = conll.looks_universal(text for _, text in first)
    for line, text in itertools.chain(first, lines, [(0, "")]):
        if not conll.is_filled(text) or (not tokens and conll.is_comment(text, universal=universal)):
            if tokens:
                yield Row(number, start, {"tokens": tokens} | ({"tags": tags} if tagged else {}))
                number, tokens, tags = number + 1, [], []
            continue
        cells = conll.cells_of(text)
        if universal and conll.is_unwritten(cells):
            continue
        found = conll.word_and_tag(cells, universal=universal, tagged=tagged)
        if found is None:
            wanted = "a line of CoNLL-U" if universal else "a word and its tag" if tagged else "a word"
            problems.add(place(number, line), f"{shorten(text)} is not {wanted}")
            continue
        start = start if tokens else line
        tokens.append(found[0])
        tags.append(found[1])


def _read_parquet(source: FileSource) -> Table:
    import pyarrow
    import pyarrow.parquet

    content = source.read()
    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(content)).read()
        refuse_equal_names(table.column_names, source.name)
        columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(
            f"is not a whole parquet file: {error}", where=source.name, fix="copy or write the file again"
        ) from error
    if not table.num_rows:
        raise DataError("the file has no rows", where=source.name, fix="is it the right file?")
    return Table(source.name, columns)


def _read_json(source: FileSource, options: ReadOptions, noted: Problems | None) -> Table:
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
    numbers = [number for number, record in enumerate(value, start=1) if isinstance(record, dict)]
    settle(problems, noted, len(numbers), FIX_ROWS)
    if not value:
        raise DataError("the file has no rows", where=source.name, fix="is it the right file?")
    records = [value[number - 1] for number in numbers]
    return Table.of_records(source.name, records, numbers=numbers if len(numbers) < len(value) else None)


def parse_json(source: FileSource, options: ReadOptions) -> Any:
    """The value in a json file, whose lines may have any length.

    Raises:
        DataError: it is empty, not text in the encoding, or not valid JSON.
    """
    content = source.read()
    if b"\n" not in content and breaks_lines_as_ascii(source.name, options):  # as old Macs end lines
        content = content.replace(b"\r", b"\n")
    stream = io.BytesIO(content)
    whole = ReadOptions(encoding=options.encoding, max_line_bytes=max(1, stream.getbuffer().nbytes))
    text = "\n".join(line for _, line in decoded_lines(stream, source.name, whole))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if (several := _objects_in(text)) is not None:
            return several
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


def _objects_in(text: str) -> list[Any] | None:
    """The objects of a text that holds one behind another, over as many lines as they take; None where it holds
    anything else."""
    decoder, found, at = json.JSONDecoder(), [], 0
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            if not isinstance(value, dict):
                return None
            found.append(value)
            at = _BLANKS.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
    except (ValueError, RecursionError):
        return None
    return found
