"""Rows that can't be encoded: found a part of a split at a time, and told of the whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luthier.errors import DataError


class UnusableRowsError(DataError):
    """Rows that are encoded together and can't be, which are told with those of the other parts of their split.

    Args:
        rank: of what is wrong; of several faults in a split the one of the lowest is told.
        rows: that have it.
        told: rows and texts in all -> the error to raise.
        total: texts that were encoded together.
    """

    def __init__(self, rank: int, rows: list[Any], told: Callable[[list[Any], int], DataError], total: int) -> None:
        self.rank, self.rows, self.told = rank, rows, told
        error = told(rows, total)
        super().__init__(error.what, where=error.where, fix=error.fix)

    def joined(self, other: UnusableRowsError) -> UnusableRowsError:
        """The error of both parts, of which this one comes first."""
        if other.rank != self.rank:
            return min(self, other, key=lambda error: error.rank)
        return UnusableRowsError(self.rank, self.rows + other.rows, self.told, 0)


def nothing_learned(where: str, rows: list[int], _total: int) -> DataError:
    return DataError(
        f"{len(rows)} rows have no labelled token left to learn from; the first is row {rows[0]}",
        where=where,
        fix="raise `max_length`, or remove these rows",
    )


def long_questions(where: str, room: int, rows: list[tuple[int, int]], _total: int) -> DataError:
    return DataError(
        f"the questions of {len(rows)} rows leave no room for their context within {room} tokens; "
        f"the first is row {rows[0][0]} with {rows[0][1]} tokens",
        where=where,
        fix="raise `max_length`, or shorten the questions",
    )


def lost_answers(where: str, room: int, rows: list[int], _total: int) -> DataError:
    return DataError(
        f"the answers of {len(rows)} rows fit in no window of {room} tokens; the first is row {min(rows)}",
        where=where,
        fix="raise `max_length`, or remove these rows",
    )
