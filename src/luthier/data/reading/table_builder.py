"""Columns of a table, filled with some thousand rows at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from luthier.data.table import Table

# A column of which a run of rows holds at most one in so many different cells keeps each of them once.
_REPEATED = 4


class TableBuilder:
    """Takes rows of a file in their order.

    Args:
        name: what the source is called in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._columns: dict[str, list[Any]] = {}
        self._kept: dict[str, dict[Any, Any]] = {}
        self._numbers, self._lines = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._numbers)

    def add_columns(
        self, names: Sequence[str], columns: Sequence[Sequence[Any]], numbers: Iterable[int], lines: Iterable[int]
    ) -> None:
        """Add rows that have the same columns as all before, given column by column.

        Args:
            names: of the columns.
            columns: one sequence of text cells for each.
            numbers: of the rows in their file, from 1.
            lines: that they start at.
        """
        for name, cells in zip(names, columns, strict=True):
            self._columns.setdefault(name, []).extend(self._once_each(name, cells))
        self._numbers.extend(numbers)
        self._lines.extend(lines)

    def add_records(self, records: Sequence[Mapping[str, Any]], numbers: Iterable[int], lines: Iterable[int]) -> None:
        """Add rows given one by one. A column that a row lacks holds None there."""
        for record in records:
            if record.keys() != self._columns.keys():
                for name in record:
                    self._columns.setdefault(name, [None] * len(self))
        for name, cells in self._columns.items():
            cells.extend([record.get(name) for record in records])
        self._numbers.extend(numbers)
        self._lines.extend(lines)

    def table(self) -> Table:
        """All rows."""
        numbers = self._numbers if self._numbers and self._numbers[-1] != len(self) else None
        return Table(self.name, self._columns, self._lines, numbers=numbers)

    def _once_each(self, name: str, cells: Sequence[Any]) -> Sequence[Any]:
        different = set(cells)
        if len(different) * _REPEATED > len(cells):
            return cells
        kept = self._kept.setdefault(name, {})
        for cell in different:
            kept.setdefault(cell, cell)
        return [kept[cell] for cell in cells]
