"""Warnings that the cells of a comparison share: the first is shown as it comes, the others are counted and told at the
end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SaidOnce(logging.Filter):
    """Lets a message through the first time that a cell says it, and remembers which cells said it.

    A cell's own folder in a message does not make it another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cell: Path | None = None
        self._said: dict[tuple[str, int, str], dict[Path, str]] = {}
        self._passed: logging.LogRecord | None = None

    def begin(self, cell: Path) -> None:
        """What is said from now on is said by this cell."""
        self._cell = cell

    def filter(self, record: logging.LogRecord) -> bool:
        if self._cell is None or record.levelno < logging.WARNING:
            return True
        if record is self._passed:  # another handler's turn
            return True
        text = record.getMessage()
        key = (record.name, record.levelno, text.replace(str(self._cell), "CELL"))
        said = self._said.setdefault(key, {})
        first = not said
        said.setdefault(self._cell, text)
        if first:
            self._passed = record
        return first

    def tell(self, cells: int) -> None:
        """Say how many cells said what the first one said."""
        self._cell = None
        for (name, level, _), said in self._said.items():
            if len(said) > 1:
                text = next(iter(said.values()))
                logging.getLogger(name).log(level, "in %d of %d runs: %s", len(said), cells, text)


@contextmanager
def said_once() -> Iterator[SaidOnce]:
    """Within this block warnings that repeat are held back, on every handler that the root logger has now."""
    heard, handlers = SaidOnce(), list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(heard)
    try:
        yield heard
    finally:
        for handler in handlers:
            handler.removeFilter(heard)
