"""Rows of any layout -> the columns of a task, with every unusable cell named."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any

from luthier.data.schemas import TaskSchema
from luthier.data.table import Problems, is_missing, listing, shorten
from luthier.errors import DataError, nearest

# Of a row that is read but not checked yet: the line that it starts at.
UNCHECKED = "line"
Columns = Mapping[str, str | list[str]]
Cell = Callable[[Any], Any]
# Characters of a list that Python's own reader, which needs much memory for deep ones, is asked about.
_LONGEST_LITERAL = 10_000
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_FLAGS = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}
_COMPANIONS = ("group", "candidate", "question", "choices", "history")


class BadCellError(ValueError):
    """A cell that the task can't use; the message says why.

    Attributes:
        column: of the table, where several are read together.
    """

    def __init__(self, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.column = column


class MissingColumnsError(DataError):
    """A table lacks columns that are wanted of it.

    Args:
        what, where, fix: as of every error.
        present: the columns that there are, in words.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str = "", present: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.present = present

    def advising(self, advice: str) -> MissingColumnsError:
        """The same where a column is named in another way than by a key of a recipe."""
        return MissingColumnsError(self.what, where=self.where, fix=f"{advice}; {self.present}", present=self.present)


def told_columns(source: str | list[str]) -> str:
    """What one or several columns are called in messages."""
    return source if isinstance(source, str) else ", ".join(source)


def wanted_columns(
    schema: TaskSchema, mapping: Columns, labelled: bool, read: Sequence[str]
) -> dict[str, str | list[str]]:
    """Canonical column -> column of the table: those that are read of every row, the label, and what a known set has
    beside them."""
    needed = list(read)
    if schema.label_column and labelled:
        needed.append(schema.label_column)
    beside = [name for name in _COMPANIONS if name in mapping and name not in needed]
    return {name: mapping.get(name, name) for name in needed + beside}


def check_columns(wanted: Columns, present: list[str], where: str) -> None:
    """Raises:
    MissingColumnsError: names all of them, and the nearest one that there is for each.
    """
    missing = missing_columns(wanted, present)
    if not missing:
        return
    hints = [f"did you mean {guess!r} for {name!r}? " for _, name in missing if (guess := nearest(name, present))]
    keys = ", ".join(dict.fromkeys(f"`{canonical}: COLUMN`" for canonical, _ in missing))
    if len(missing) == 1:
        hints = [hint.partition(" for ")[0] + "? " for hint in hints]
    there = f"{''.join(hints)}the columns are: {listing(present)}"
    raise MissingColumnsError(
        f"there is no column {' and no column '.join(repr(name) for _, name in missing)}",
        where=where,
        fix=f"{there}; name yours with {keys}",
        present=there,
    )


def missing_columns(wanted: Columns, present: Collection[str]) -> list[tuple[str, str]]:
    """(canonical column, column of the table) of all that are wanted and not there."""
    return [
        (canonical, name)
        for canonical, source in wanted.items()
        for name in ([source] if isinstance(source, str) else source)
        if name not in present
    ]


def check_apart(wanted: Columns, where: str) -> None:
    """Raises:
    DataError: two things that a task tells apart are read from one column.
    """
    read: dict[str, str] = {}
    for canonical, source in wanted.items():
        for name in [source] if isinstance(source, str) else source:
            if name in read:
                raise DataError(
                    f"{read[name]} and {canonical} are both read from the column {name!r}",
                    where=where,
                    fix=f"name another column with `{canonical}: COLUMN` or `{read[name]}: COLUMN`",
                )
            read[name] = canonical


def canonical_row(
    schema: TaskSchema, record: Mapping[str, Any], wanted: Columns
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """One row in canonical columns, class labels still as text, and its problems as (column, message)."""
    row: dict[str, Any] = {}
    problems = []
    for canonical, source in wanted.items():
        value = record[source] if isinstance(source, str) else [record[name] for name in source]
        try:
            row[canonical] = _cell(schema, canonical, source)(value)
        except BadCellError as error:
            problems.append((error.column or told_columns(source), str(error)))
    if not problems:
        problems = [(told_columns(wanted[canonical]), message) for canonical, message in schema.check_row(row)]
    return row, problems


def canonical_columns(
    schema: TaskSchema, columns: Mapping[str, Sequence[Any]], wanted: Columns
) -> dict[str, list[Any]] | None:
    """Some rows in canonical columns, as `canonical_row` gives each; None where one of them has a problem.

    Args:
        schema: the task.
        columns: column of the table -> its cells.
        wanted: canonical column -> column of the table.
    """
    found: dict[str, list[Any]] = {}
    for canonical, source in wanted.items():
        cell = _cell(schema, canonical, source)
        cells = columns[source] if isinstance(source, str) else _side_by_side([columns[name] for name in source])
        try:
            found[canonical] = _TOGETHER.get(cell, partial(_one_by_one, cell))(cells)
        except BadCellError:
            return None
    if type(schema).check_row is not TaskSchema.check_row:
        names = list(found)
        for row in zip(*found.values(), strict=True):
            if schema.check_row(dict(zip(names, row, strict=True))):
                return None
    return found


def _side_by_side(columns: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(cells) for cells in zip(*columns, strict=True)]


def _one_by_one(cell: Cell, cells: Sequence[Any]) -> list[Any]:
    return [cell(value) for value in cells]


def _texts(cells: Sequence[Any]) -> list[str]:
    if set(map(type, cells)) != {str} or not all(map(str.strip, cells)):
        return _one_by_one(as_text, cells)
    whole_characters("".join(cells))
    return list(cells)


def _labels(cells: Sequence[Any]) -> list[str]:
    # Values of several types can be equal and yet be different labels: 1 and True.
    if len(set(map(type, cells))) != 1 or type(cells[0]) not in (str, int, float, bool):
        return _one_by_one(as_label, cells)
    label_of = {value: as_label(value) for value in set(cells)}
    return [label_of[value] for value in cells]


def _cell(schema: TaskSchema, canonical: str, source: str | list[str]) -> Cell:
    if canonical == schema.label_column and isinstance(source, list):
        return partial(_as_classes, source)
    own = schema.cells()
    if canonical in own:
        return own[canonical]
    if canonical == schema.label_column and schema.label_kind in _LABELS:
        return _LABELS[schema.label_kind]
    return _CELLS.get(canonical, as_text)


def note(problems: Problems, place: str, found: list[tuple[str, str]]) -> None:
    """Add a row's problems to those of its source."""
    for column, message in found:
        problems.add(f"{place}, column {column!r}", message)


def as_text(value: Any) -> str:
    """A cell that has to hold text."""
    if is_missing(value):
        raise BadCellError("is missing")
    if not isinstance(value, str):
        raise BadCellError(f"holds {shorten(value)}, which is not text")
    if not value.strip():
        raise BadCellError("holds no text")
    return whole_characters(value)


def whole_characters(text: str) -> str:
    """The text, if it can be written as UTF-8.

    Raises:
        BadCellError: it holds half of a surrogate pair, as the escape \\ud800 alone in JSON does.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise BadCellError(
            f"holds {shorten(text)}, where {half} is half a character: the other half of its surrogate pair is missing"
        ) from error
    return text


def as_label(value: Any) -> str:
    """A label as text: 1, 1.0 and "1" are the same, and so are True and "True"."""
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise BadCellError("has no label")
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        several = "; several labels a text are learned with `task: multi_label`" if isinstance(value, list) else ""
        raise BadCellError(f"holds {shorten(value)}, which is no label{several}")
    return whole_characters(str(value).strip())


def json_cell(text: str) -> Any:
    """What the JSON in a cell says.

    Raises:
        BadCellError: it is none.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise BadCellError("holds JSON that is nested too deeply") from error
    except ValueError as error:
        reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        quoted = "; JSON has double quotes" if "'" in text and '"' not in text else ""
        raise BadCellError(f"is not valid JSON: {reason}{quoted}") from error


def list_cell(text: str) -> Any:
    """What the text of a list in a cell says: JSON, or as Python, and so pandas, writes it.

    Raises:
        BadCellError: it is neither.
    """
    try:
        return json_cell(text)
    except BadCellError:
        if len(text) < _LONGEST_LITERAL:
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                return ast.literal_eval(text.strip())
        raise


def is_multi_hot(value: Sequence[Any]) -> bool:
    """Whether a list has a 0 or a 1 for each class, and not labels, of which none would be there twice."""
    return bool(value) and all(one in (0, 1) for one in value) and len(set(value)) < len(value)


def as_score(value: Any) -> float:
    """A finite number."""
    try:
        score = math.nan if is_missing(value) or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        comma = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip())
        point = "; decimals are written with a point" if comma else ""
        raise BadCellError(f"holds {shorten(value)}, which is not a finite number{point}")
    return score


def as_flag(value: Any) -> bool:
    """A cell that says yes or no: 1 and 0, true and false, yes and no, in whatever case."""
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise BadCellError("is missing")
    said = _FLAGS.get(as_label(value).lower())
    if said is None:
        raise BadCellError(f"holds {shorten(value)}, which is neither 0 nor 1")
    return said


def _as_classes(names: Sequence[str], cells: Sequence[Any]) -> list[str]:
    """The classes of a row that has a column for each."""
    found = []
    for name, value in zip(names, cells, strict=True):
        try:
            if as_flag(value):
                found.append(name)
        except BadCellError as error:
            raise BadCellError(str(error), name) from None
    return found


def _as_words(value: Any) -> list[str]:
    words: Any = words_of_cell(value) if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise BadCellError("holds no words" if not is_missing(value) else "is missing")
    bad = [word for word in words if not isinstance(word, str) or not word.strip()]
    if bad:
        raise BadCellError(f"holds {shorten(bad[0])}, which is no word")
    return [whole_characters(word) for word in words]


def words_of_cell(text: str) -> list[str]:
    """Words that blanks part, or those of a list, as a cell of a csv file holds it."""
    if text.strip()[:1] == "[" and text.strip()[-1:] == "]":
        with suppress(BadCellError):
            found = list_cell(text)
            if isinstance(found, list) and all(isinstance(one, str) for one in found):
                return found
    return text.split()


def _as_labels(value: Any) -> list[str]:
    labels: Any = words_of_cell(value) if isinstance(value, str) else value
    if not isinstance(labels, list):
        raise BadCellError("holds no list of labels")
    return [as_label(label) for label in labels]


def _as_choices(value: Any) -> list[str]:
    if not isinstance(value, list) or len(value) < 2:
        raise BadCellError(f"holds {shorten(value)}, which is no list of two or more choices")
    return [as_text(choice) for choice in value]


def _as_history(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or any(
        not isinstance(one, dict) or set(one) != {"role", "content"} for one in value
    ):
        raise BadCellError(f"holds {shorten(value)}, which is no list of messages")
    return [{"role": as_text(one["role"]), "content": as_text(one["content"])} for one in value]


def _as_is(value: Any) -> str:
    return whole_characters(str(value))


_CELLS: dict[str, Cell] = {"tokens": _as_words, "choices": _as_choices, "group": _as_is, "history": _as_history}
_TOGETHER: dict[Cell, Callable[[Sequence[Any]], list[Any]]] = {as_text: _texts, as_label: _labels}
_LABELS: dict[str | None, Cell] = {
    "class": as_label,
    "classes": _as_labels,
    "choice": as_label,
    "score": as_score,
}
