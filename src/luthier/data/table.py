"""Rows as they were read, before anything is known about their task, and the problems found in them."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from luthier.errors import DataError

SHOWN_PROBLEMS = 20
_VALUE = re.compile(r"holds .*?(?=, (?:which|where) )", re.DOTALL)
_LABEL = re.compile(r"the label .* is not one of", re.DOTALL)


@dataclass
class Table:
    """Columns of equal length.

    Attributes:
        name: what the source is called in messages.
        columns: column name -> values, in file order.
        lines: line of the file each row starts at, where it has lines.
        labels: every label in the order of its id, where the source itself says so.
        numbers: number of each row in its file, from 1, where rows of the file are missing here.
        about: what is told of the source beside its name.
    """

    name: str
    columns: dict[str, list[Any]]
    lines: Sequence[int] | None = None
    labels: list[str] | None = None
    numbers: Sequence[int] | None = None
    about: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    @classmethod
    def of_records(
        cls,
        name: str,
        records: Sequence[dict[str, Any]],
        lines: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Table:
        """A table of dictionaries. A key that a record lacks becomes None."""
        names = dict.fromkeys(key for record in records for key in record)
        return cls(name, {key: [record.get(key) for record in records] for key in names}, lines, numbers=numbers)

    def record(self, index: int) -> dict[str, Any]:
        """The row at a 0-based index."""
        return {name: values[index] for name, values in self.columns.items()}

    def number(self, index: int) -> int:
        """Number in the file, from 1, of the row at a 0-based index."""
        return self.numbers[index] if self.numbers else index + 1

    def place(self, index: int) -> str:
        """Row and line of a 0-based index, for messages."""
        return place(self.number(index), self.lines[index] if self.lines else None)


class Places(Sequence[str]):
    """Row and line of some rows of a table, for messages, written when they are asked for.

    Args:
        table: that the rows are of.
        indices: 0-based, of the rows.
    """

    def __init__(self, table: Table, indices: Sequence[int]) -> None:
        self._table, self._indices = table, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Places: ...
    def __getitem__(self, place: int | slice) -> str | Places:
        if isinstance(place, slice):
            return Places(self._table, self._indices[place])
        return self._table.place(self._indices[place])

    def select(self, places: Iterable[int]) -> Places:
        """Those of the rows at 0-based places among these."""
        return Places(self._table, array("q", (self._indices[i] for i in places)))


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None or a float NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def place(row: int, line: int | None = None) -> str:
    """`row 3`, or `row 3 (line 4)` where the line differs."""
    return f"row {row}" if line is None or line == row else f"row {row} (line {line})"


@dataclass
class Problems:
    """Everything that is wrong with a source, so that the user sees it at once.

    Attributes:
        name: of the source.
        found: the first problems, word for word.
        count: how many there are.
        rows: how many rows have one.
        reasons: what is wrong, without the values that it is told of -> how many problems.
    """

    name: str
    found: list[str] = field(default_factory=list)
    count: int = 0
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    _last: str = ""

    def add(self, where: str, message: str) -> None:
        """Note one problem; only the first ones are kept word for word.

        Args:
            where: `row 3`, `row 3 (line 4)`, with `, column 'text'` behind it where one cell is wrong.
            message: what is wrong with it.
        """
        row, _, column = where.partition(", column ")
        self.rows += row != self._last
        self._last = row
        self.count += 1
        self.reasons[f"column {column} {_reason(message)}" if column else _reason(message)] += 1
        if len(self.found) < SHOWN_PROBLEMS:
            self.found.append(f"{where}: {message}")

    def take(self, other: Problems) -> None:
        """Add those that were found at a later look at the same source."""
        self.count, self.rows = self.count + other.count, self.rows + other.rows
        self.reasons += other.reasons
        self.found += other.found[: SHOWN_PROBLEMS - len(self.found)]

    def raise_if_any(self, fix: str | None = None) -> None:
        """Raises:
        DataError: a problem was noted.
        """
        if not self.count:
            return
        if self.count == 1:
            raise DataError(self.found[0], where=self.name, fix=fix)
        raise DataError(f"{self.count} problems\n  {self.listed()}", where=self.name, fix=fix)

    def listed(self, most: int = SHOWN_PROBLEMS) -> str:
        """The first problems, one a line, and how many more there are."""
        shown = self.found[:most]
        more = f"\n  ... and {self.count - len(shown)} more" if self.count > len(shown) else ""
        return "\n  ".join(shown) + more


def _reason(message: str) -> str:
    """What a message says without the value that it tells of, so that equal faults can be counted."""
    message = _VALUE.sub("holds something", message)
    return _LABEL.sub("has a label that is not one of", message).split(": ")[0].split("; ")[0]


def shorten(value: Any, width: int = 60) -> str:
    """A value as one short line of text."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def listing(words: Iterable[str], most: int = 12) -> str:
    """Words for a message, not more than it can bear."""
    words = list(words)
    return ", ".join(words[:most]) + (f", ... ({len(words)} in all)" if len(words) > most else "")
