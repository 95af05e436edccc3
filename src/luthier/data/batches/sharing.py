"""Rows that several processes share out among themselves, so that together they see what one would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FILLER = "filler"


class SharedRows:
    """Encoded rows of which a process may get one that counts for nothing, where the others have the last ones.

    Index `len(rows) + i` is row i as such a filler: every process has to take part in every pass.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self.rows):
            row: dict[str, Any] = self.rows[index]
            return row
        return {**self.rows[index - len(self.rows)], FILLER: True}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Several rows, read together."""
        total, rows = len(self.rows), self.rows
        places = [index if index < total else index - total for index in indices]
        found = rows.__getitems__(places) if hasattr(rows, "__getitems__") else [rows[place] for place in places]
        return [row if index < total else {**row, FILLER: True} for index, row in zip(indices, found, strict=True)]


def collating_fillers(collator: Callable[[list[Any]], dict[str, Any]]) -> Callable[[list[Any]], dict[str, Any]]:
    """The collator, whose batch of a filler has the entry `filler`."""

    def collate(rows: list[Any]) -> dict[str, Any]:
        plain = [{name: value for name, value in row.items() if name != FILLER} for row in rows]
        batch = collator(plain)
        return batch | {FILLER: True} if any(FILLER in row for row in rows) else batch

    return collate
