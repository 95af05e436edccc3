"""Rows that show a model the same text: those that stand in the training rows, too, tell nothing of new text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Of training rows that repeat an earlier one, the share from which they are warned about.
MANY = 0.05


@dataclass(frozen=True)
class Repeats:
    """What rows of a split have in common with the training rows.

    Attributes:
        split: name of the split.
        count: of its rows, those whose text stands in a training row, too; of training rows, in an earlier one.
        rows: of the split.
    """

    split: str
    count: int
    rows: int

    @property
    def told(self) -> str:
        """In words; empty where there are none."""
        if not self.count:
            return ""
        stand = f"{self.count} of {self.rows} {self.split} rows"
        if self.split == "train":
            return f"{self.count} of {self.rows} training rows repeat the text of an earlier one"
        return f"{stand} stand in the training rows, too: scores on them tell nothing of new text"

    @property
    def warned(self) -> bool:
        """Whether there are so many that a user should know before the run."""
        return self.count > (MANY * self.rows if self.split == "train" else 0)


def text_keys(columns: Mapping[str, Sequence[Any]], shown: Sequence[str]) -> list[int]:
    """A 64-bit hash of what every row shows: of equal rows the same, in this process.

    Args:
        columns: canonical column -> (N,) values.
        shown: the columns that a model reads; of a split that lacks one, it counts as empty, as an empty list does.
    """
    rows = len(next(iter(columns.values()), ()))
    read = [columns.get(name) or [None] * rows for name in shown]
    return [hash(tuple(v if isinstance(v, str) else repr(v or None) for v in one)) for one in zip(*read, strict=True)]


def repeats_in(split: str, keys: Sequence[int], training: Collection[int]) -> Repeats:
    """How many rows with these keys stand among the keys of the training rows; of `train`, that are not the first."""
    count = len(keys) - len(set(keys)) if split == "train" else sum(key in training for key in keys)
    return Repeats(split, count, len(keys))


def units_of(keys: Sequence[int]) -> list[list[int]]:
    """0-based rows of every distinct key, in the order of their first rows."""
    found: dict[int, list[int]] = {}
    for row, key in enumerate(keys):
        found.setdefault(key, []).append(row)
    return list(found.values())
