"""The first rows of a file, and how it has to be read to get them."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.data.reading import conll
from luthier.data.reading.heads import ROWS, head_of_parquet
from luthier.data.reading.lines import is_utf8
from luthier.data.reading.readers import (
    BYTE_ORDER_MARKS,
    FIX_ROWS,
    ReadOptions,
    decoded_lines,
    is_part_of_json,
    iterate_rows,
    named_delimiter,
    read_table,
)
from luthier.data.sources.base import FileSource
from luthier.data.table import Problems, Table
from luthier.errors import DataError

_DELIMITERS = (",", "\t", ";", "|")
WINDOWS = "windows-1252"
# Of the letters of a text in Windows-1252, at most, that are beyond ASCII; in Cyrillic or Chinese bytes nearly all are.
_ACCENTED = 0.4
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
# Bytes at the start of a file that show its encoding.
_LOOKED_AT = 1 << 20
_LONG_CELL = 40
# Lines of which each tells how many fields a row has.
_FEW_LINES = 3
# A comma that stands in no number, as those do that are written with a decimal comma.
_NOT_DECIMAL = re.compile(r"(?<!\d),|,(?!\d)")
# Values that show what a column holds: numbers; labels, how many at most, and how often each.
_ENOUGH = 8
_ENOUGH_LABELS, _FEW_LABELS, _AGAIN = 20, 12, 3
_HOLDS_DIGIT = re.compile(r"\d")
# A name that nobody writes in a text, as in "phrase_one".
_JOINED = re.compile(r"[A-Za-z]+(_[A-Za-z0-9]+)+")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")
_TAG = re.compile(r"O|[BIESLUS]-\S+|[A-Z][A-Z$\-]*[|]?[A-Z$]*|[^\w\s]+")
_HEADER_WORDS = frozenset(
    [
        "text",
        "sentence",
        "sentence1",
        "sentence2",
        "review",
        "comment",
        "content",
        "body",
        "title",
        "label",
        "labels",
        "class",
        "category",
        "target",
        "sentiment",
        "score",
        "rating",
        "gold",
        "gold_label",
        "premise",
        "hypothesis",
        "question",
        "question1",
        "question2",
        "query",
        "context",
        "passage",
        "answer",
        "answers",
        "prompt",
        "response",
        "completion",
        "instruction",
        "input",
        "output",
        "id",
        "idx",
        "index",
        "text_pair",
        "text_a",
        "text_b",
        "tokens",
        "tags",
        "words",
        "word",
        "tag",
        "choices",
        "tweet",
        "headline",
        "description",
        "document",
        "summary",
        "source",
        "stars",
        "intent",
        "y",
    ]
)


@dataclass(frozen=True)
class Sample:
    """The first rows of a file.

    Attributes:
        table: the rows, with their columns.
        keys: keys of the data block that say how the file is read, where the defaults don't.
        said: what was found out about the file, for people.
        doubts: what else it could be, and how to say so.
        whole: whether these are all its rows.
    """

    table: Table
    keys: dict[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    whole: bool = True


def read_sample(source: FileSource) -> Sample:
    """The first rows of a file.

    Raises:
        DataError: it can't be read, or has no rows.
    """
    options, said = _encoding(source)
    kind = source.format
    if kind in ("json", "parquet"):
        table = head_of_parquet(source, ROWS + 1) if kind == "parquet" else read_table(source, options)
        sample = Sample(_head(table), whole=len(table) <= ROWS)
    else:
        sample = _of_lines(source, options, kind)
    keys = {"encoding": options.encoding} if options.encoding != "utf-8" else {}
    return replace(sample, keys=keys | sample.keys, said=(*said, *sample.said))


def looks_like_conll(source: FileSource) -> tuple[bool, bool]:
    """Whether the lines of a text file hold a word and its tag each, and blank lines part the sentences; and whether
    the first line names the columns.

    Raises:
        DataError: it can't be read.
    """
    options, _ = _encoding(source)
    lines = _first_lines(source, options)
    return _looks_like_conll(lines), not _is_tagged(conll.cells_of(lines[0])) if lines else False


def reread(source: FileSource, keys: dict[str, Any]) -> Table:
    """The first rows of another file, read with the keys of a first one.

    Raises:
        DataError: it can't be read so.
    """
    names = keys.get("column_names")
    options = ReadOptions(
        format=keys.get("format"),
        delimiter=keys.get("delimiter"),
        column_names=tuple(names) if names else None,
        encoding=keys.get("encoding", "utf-8"),
    )
    kind = options.format or source.format
    if kind == "parquet":
        return head_of_parquet(source, ROWS + 1)
    return _head(read_table(source, options)) if kind == "json" else _rows(source, options)[0]


def _encoding(source: FileSource) -> tuple[ReadOptions, tuple[str, ...]]:
    """How the text of a file is encoded, and what is said of it where that is not UTF-8."""
    binary, json_text = source.format == "parquet", source.format in ("json", "jsonl")
    with source.open() as stream:
        start = stream.read(4 if binary else _LOOKED_AT)
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return ReadOptions(encoding=encoding), (f"the encoding is {encoding}, by its byte order mark",)
    if not binary and not json_text and not is_utf8(start) and _is_windows(start):
        told = f"the bytes are no UTF-8; read as {WINDOWS}, as Excel saves: look whether all letters are right"
        return ReadOptions(encoding=WINDOWS), (told,)
    return ReadOptions(), ()


def _is_windows(start: bytes) -> bool:
    """Whether bytes are characters of Windows-1252, none of them a control character but blanks and ends of lines, and
    letters with accents among plain ones, as the languages have them that are written so."""
    try:
        text = start.decode(WINDOWS)
    except UnicodeDecodeError:
        return False
    letters = [one.isascii() for one in text if one.isalpha() or not one.isascii()]
    return not _CONTROL.search(text) and letters.count(False) <= _ACCENTED * len(letters)


def _head(table: Table) -> Table:
    columns = {name: values[:ROWS] for name, values in table.columns.items()}
    return Table(table.name, columns, table.lines[:ROWS] if table.lines else None)


def _of_lines(source: FileSource, options: ReadOptions, kind: str | None) -> Sample:
    lines = _first_lines(source, options)
    if kind in (None, "txt", "tsv", "csv"):
        found = _kind_of(lines, kind)
        if found != kind:
            kind = found
            options = replace(options, format=kind)
    if kind == "json" or (kind == "jsonl" and is_part_of_json(lines[0])):
        table = read_table(source, replace(options, format="json"))
        return Sample(_head(table), {"format": "json"}, ("the format is json",), whole=len(table) <= ROWS)
    if kind in ("csv", "tsv"):
        return _delimited(source, options, kind, lines)
    table, whole = _rows(source, options)
    told = f"the format is {kind}, by what the lines look like"
    doubts: tuple[str, ...] = ()
    if kind == "conll":
        told = _about_conll(lines, options.format is not None)
        if options.format:
            doubts = ("the lines look like words with their tags; if they are not, change `format`",)
    keys = {"format": options.format} if options.format else {}
    return Sample(table, keys, (told,) if options.format or kind == "conll" else (), doubts, whole)


def _about_conll(lines: Sequence[str], by_looks: bool) -> str:
    if conll.looks_universal(lines):
        return "the format is conll, as CoNLL-U has it: the second column is the word, the fourth its part of speech"
    width = max((len(conll.cells_of(line)) for line in lines if line.strip()), default=2)
    others = f"; of {width} columns the first is the word and the last its tag" if width > 2 else ""
    looks = ", by what the lines look like" if by_looks else ""
    return f"the format is conll{looks}: a word and its tag on each line{others}"


def _first_lines(source: FileSource, options: ReadOptions) -> list[str]:
    with source.open() as stream:
        lines = decoded_lines(stream, source.name, options)
        filled = itertools.dropwhile(lambda numbered: not numbered[1].strip(), lines)
        return [line for _, line in itertools.islice(filled, 2 * ROWS)]


def _rows(source: FileSource, options: ReadOptions) -> tuple[Table, bool]:
    problems = Problems(source.name)
    rows = list(itertools.islice(iterate_rows(source, options, problems), ROWS + 1))
    problems.raise_if_any(FIX_ROWS)
    if not rows:
        raise DataError(
            "the file has no rows",
            where=source.name,
            fix="is it the right file? A first line is read as the names of the columns",
        )
    table = Table.of_records(source.name, [row.cells for row in rows[:ROWS]], [row.line for row in rows[:ROWS]])
    return table, len(rows) <= ROWS


def _kind_of(lines: Sequence[str], named: str | None) -> str:
    """What lines look like, where the name of the file does not tell, or may be wrong."""
    filled = [line for line in lines if line.strip()]
    if _looks_like_conll(lines):
        return "conll"
    if named in ("csv", "tsv"):
        return named
    if filled[0].lstrip()[:1] == "{" and filled[0].rstrip()[-1:] == "}":
        return "jsonl"
    if named is None and filled[0].lstrip()[:1] in ("[", "{"):
        return "json"
    widths = {line.count("\t") for line in filled}
    if len(widths) == 1 and widths != {0}:
        return "tsv"
    if named is None and any(_width(filled, delimiter, "csv") > 1 for delimiter in (",", ";", "|")):
        return "csv"
    return "txt"


def _looks_like_conll(lines: Sequence[str]) -> bool:
    if conll.looks_universal(lines):
        return True
    lines = [x for x in lines if not x.startswith("-DOCSTART-") and not conll.is_comment(x, universal=False)]
    filled = [conll.cells_of(line) for line in lines if line.strip()]
    inner = list(itertools.dropwhile(lambda line: not line.strip(), lines))
    while inner and not inner[-1].strip():
        inner.pop()
    if len(filled) < 2 or all(line.strip() for line in inner):
        return False
    widths = {len(cells) for cells in filled}
    if len(widths) > 1 or widths == {1} or any(" " in cell or not cell for cells in filled for cell in cells):
        return False
    tagged = sum(map(_is_tagged, filled))
    # One line may be the names of the columns.
    return tagged >= min(0.9 * len(filled), len(filled) - 1)


def _is_tagged(cells: Sequence[str]) -> bool:
    return _TAG.fullmatch(cells[-1]) is not None


def _width(lines: Sequence[str], delimiter: str, kind: str) -> int:
    """Fields of every line, or 0 where lines differ."""
    if kind == "tsv" or (delimiter == "\t" and not any('"' in line for line in lines)):
        widths = [line.count(delimiter) + 1 for line in lines]
    else:
        try:
            rows = csv.reader((line + "\n" for line in lines), delimiter=delimiter)
            widths = [len(cells) for cells in rows if cells]
        except csv.Error:
            return 0
    # The last of the lines that were looked at may be the beginning of a longer row.
    whole = widths[:-1] if len(widths) > _FEW_LINES else widths
    return whole[0] if len(set(whole)) == 1 else 0


def _delimiter(lines: Sequence[str], kind: str) -> str | None:
    """The separator, where it is not the usual one of the format."""
    usual = "," if kind == "csv" else "\t"
    filled = [line for line in lines if line.strip()]
    others = [one for one in _DELIMITERS if one != usual]
    widths = {one: _width(filled, one, kind) for one in others}
    decimal = usual == "," and widths[";"] > 1 and not _NOT_DECIMAL.search("\n".join(filled))
    if not decimal and _width(filled, usual, kind) > 1:
        return None
    best = max(others, key=lambda one: widths[one])
    if widths[best] > 1:
        return best
    header = {one: filled[0].count(one) for one in _DELIMITERS}
    best = max(others, key=lambda one: header[one])
    return best if header[best] and not header[usual] else None


def _delimited(source: FileSource, options: ReadOptions, kind: str, lines: Sequence[str]) -> Sample:
    told = named_delimiter(lines[0])
    if told is not None:
        lines = lines[1:]
    usual = "," if kind == "csv" else "\t"
    delimiter = _delimiter(lines, kind) if told is None else told if told != usual else None
    options = replace(options, delimiter=delimiter)
    keys: dict[str, Any] = {"format": options.format} if options.format else {}
    said = [f"the format is {kind}, by what the lines look like"] if options.format else []
    if delimiter:
        keys["delimiter"] = delimiter
        said.append(f"the fields are parted by {delimiter!r}")
    width = len(_first_record(lines, delimiter or usual, kind))
    plain = tuple(f"column{number + 1}" for number in range(width))
    try:
        table, whole = _rows(source, replace(options, column_names=plain))
    except DataError:
        _rows(source, options)
        raise
    first = [str(values[0]) for values in table.columns.values()]
    rest = [values[1:] for values in table.columns.values()]
    if _is_header(first, rest):
        table, whole = _rows(source, options)
        if _is_plainly_header(first, rest):
            return Sample(table, keys, tuple(said), (), whole)
        doubt = (
            f"the first line is taken for the names of the columns ({', '.join(table.columns)}); "
            "if it is an example, name the columns with `column_names: [...]`"
        )
        return Sample(table, keys, tuple(said), (doubt,), whole)
    keys["column_names"] = list(plain)
    said.append("there is no header line")
    doubt = "the first line is taken for an example; if it names the columns, take `column_names` out"
    return Sample(table, keys, tuple(said), (doubt,), whole)


def _first_record(lines: Sequence[str], delimiter: str, kind: str) -> list[str]:
    filled = [line for line in lines if line.strip()]
    if kind == "tsv":
        return filled[0].split(delimiter)
    try:
        return next(csv.reader((line + "\n" for line in filled), delimiter=delimiter), [""])
    except csv.Error:
        return filled[0].split(delimiter)


def _is_header(first: Sequence[str], rest: Sequence[Sequence[Any]]) -> bool:
    cells, columns = _stripped(first, rest)
    if any(cell and cell in values for cell, values in zip(cells, columns, strict=True)):
        return False
    if any(map(_stands_out, cells, columns)):
        return True
    if any(len(cell) > _LONG_CELL or len(cell.split()) > 4 or cell[-1:] in (".", "?", "!") for cell in cells):
        return False
    return any(cell.lower() in _HEADER_WORDS for cell in cells) or not any(map(_NUMBER.fullmatch, cells))


def _is_plainly_header(first: Sequence[str], rest: Sequence[Sequence[Any]]) -> bool:
    """Whether nothing else than a header need be thought of: a usual name is among the cells, or one that is joined by
    underscores, or one that can't be a cell of its column."""
    cells, columns = _stripped(first, rest)
    usual = any(cell.lower() in _HEADER_WORDS or _JOINED.fullmatch(cell) for cell in cells)
    return usual or any(map(_stands_out, cells, columns))


def _stripped(first: Sequence[str], rest: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[str]]]:
    columns = [[str(value).strip() for value in values if str(value).strip()] for values in rest]
    return [cell.strip() for cell in first], columns


def _stands_out(cell: str, values: Sequence[str]) -> bool:
    """Whether a cell can't be one of its column: the others are numbers, dates or numbered names and it has no digit,
    or they are few labels, each of them there again and again, and it is none."""
    if not cell or _HOLDS_DIGIT.search(cell):
        return False
    if len(values) >= _ENOUGH and all(map(_HOLDS_DIGIT.search, values)):
        return True
    counts = Counter(values)
    return len(values) >= _ENOUGH_LABELS and len(counts) <= _FEW_LABELS and min(counts.values()) >= _AGAIN
