"""Rows as they were read, before anything is known about their task, and the problems found in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import DataError

SHOWN_PROBLEMS = 20


@dataclass
class Table:
    """Columns of equal length.

    Attributes:
        name: what the source is called in messages.
        columns: column name -> values, in file order.
        lines: line of the file each row starts at, where it has lines.
        labels: every label in the order of its id, where the source itself says so.
    """

    name: str
    columns: dict[str, list[Any]]
    lines: list[int] | None = None
    labels: list[str] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    @classmethod
    def of_records(cls, name: str, records: Sequence[dict[str, Any]], lines: list[int] | None = None) -> Table:
        """A table of dictionaries. A key that a record lacks becomes None."""
        names = dict.fromkeys(key for record in records for key in record)
        return cls(name, {key: [record.get(key) for record in records] for key in names}, lines)

    def record(self, index: int) -> dict[str, Any]:
        """The row at a 0-based index."""
        return {name: values[index] for name, values in self.columns.items()}

    def place(self, index: int) -> str:
        """Row and line of a 0-based index, for messages."""
        return place(index + 1, self.lines[index] if self.lines else None)


def place(row: int, line: int | None = None) -> str:
    """`row 3`, or `row 3 (line 4)` where the line differs."""
    return f"row {row}" if line is None or line == row else f"row {row} (line {line})"


@dataclass
class Problems:
    """Everything that is wrong with a source, so that the user sees it at once."""

    name: str
    found: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, where: str, message: str) -> None:
        """Note one problem; only the first ones are kept word for word."""
        self.count += 1
        if len(self.found) < SHOWN_PROBLEMS:
            self.found.append(f"{where}: {message}")

    def raise_if_any(self, fix: str | None = None) -> None:
        """Raises:
        DataError: a problem was noted.
        """
        if not self.count:
            return
        if self.count == 1:
            raise DataError(self.found[0], where=self.name, fix=fix)
        more = f"\n  ... and {self.count - len(self.found)} more" if self.count > len(self.found) else ""
        raise DataError(f"{self.count} problems\n  " + "\n  ".join(self.found) + more, where=self.name, fix=fix)


def shorten(value: Any, width: int = 60) -> str:
    """A value as one short line of text."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def listing(words: Iterable[str], most: int = 12) -> str:
    """Words for a message, not more than it can bear."""
    words = list(words)
    return ", ".join(words[:most]) + (f", ... ({len(words)} in all)" if len(words) > most else "")
