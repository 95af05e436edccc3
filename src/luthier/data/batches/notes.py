"""What is told of encoded rows: of those of one call, or, where a file is encoded in parts, of all of them once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.data.batches.encoders import Encoder

_log = logging.getLogger(__name__)


@dataclass
class Notes:
    """What is told of encoded rows, each time that they are asked for.

    Attributes:
        cut: how many rows were cut.
        longest: the longest of them, and its tokens before.
        unseen: rows with words that the model does not see.
        words: how many such words.
        first: the first such row.
    """

    cut: int = 0
    longest: tuple[int, int] = (0, 0)
    unseen: int = 0
    words: int = 0
    first: int = 0

    def take(self, options: Encoder) -> None:
        """Move what an encoder took note of here."""
        if options.cut:
            self._cut(len(options.cut), max(options.cut, key=lambda pair: pair[1]))
        if options.unseen:
            self._unseen(len(options.unseen), sum(words for _, words in options.unseen), options.unseen[0][0])
        options.cut, options.unseen = [], []

    def join(self, later: Notes) -> None:
        """Add what is told of later rows."""
        if later.cut:
            self._cut(later.cut, later.longest)
        if later.unseen:
            self._unseen(later.unseen, later.words, later.first)

    def _cut(self, rows: int, longest: tuple[int, int]) -> None:
        self.cut += rows
        self.longest = longest if longest[1] > self.longest[1] else self.longest

    def _unseen(self, rows: int, words: int, first: int) -> None:
        self.first = self.first if self.unseen else first
        self.unseen += rows
        self.words += words

    def tell(self, where: str, total: int, room: int) -> None:
        """Warn of rows that the model sees only a part of."""
        if self.cut:
            _log.warning(
                "%s: %d of %d rows were cut to %d tokens; the longest, row %d, had %d",
                where,
                self.cut,
                total,
                room,
                *self.longest,
            )
        if self.unseen:
            _log.warning(
                "%s: %d words of %d rows become no tokens or lie behind the cut, so that they are neither learned nor "
                "judged, and predicted to be nothing; the first is in row %d",
                where,
                self.words,
                self.unseen,
                self.first,
            )


class Parts:
    """A file of which some rows are encoded, and then others.

    Args:
        total: rows of the file.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.before = 0
        self.notes: dict[tuple[str, int], Notes] = {}

    @contextmanager
    def from_row(self, before: int) -> Iterator[None]:
        """The rows behind the first `before` are encoded in this block."""
        self.before = before
        token = _parts.set(self)
        try:
            yield
        finally:
            _parts.reset(token)

    def tell(self) -> None:
        """Tell what there is to tell of all parts together."""
        for (where, room), notes in self.notes.items():
            notes.tell(where, self.total, room)


_parts: ContextVar[Parts | None] = ContextVar("luthier_parts", default=None)


def rows_before() -> int:
    """How many rows of a file come before those that are encoded here."""
    parts = _parts.get()
    return 0 if parts is None else parts.before


def tell(notes: Notes, where: str, total: int, room: int) -> None:
    """Tell it, or keep it until all parts of the file are there.

    Args:
        notes: of these rows.
        where: what they are called.
        total: how many they are.
        room: tokens that they were cut to.
    """
    parts = _parts.get()
    if parts is None:
        notes.tell(where, total, room)
    else:
        parts.notes.setdefault((where, room), Notes()).join(notes)
