"""Lets the caller of a run follow its evaluations as they come, and end it early."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from luthier.errors import LuthierError

Watcher = Callable[[int, str, float], None]
_watcher: ContextVar[Watcher | None] = ContextVar("luthier_watcher", default=None)


class EndedEarlyError(LuthierError):
    """Whoever watches a run saw enough of it."""


@contextmanager
def watching(watcher: Watcher | None) -> Iterator[None]:
    """Call `watcher` with step, name and value of the main score of every evaluation inside this block.

    It ends the run by raising `EndedEarlyError`.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell_watcher(step: int, name: str, score: float) -> None:
    """Pass an evaluation on to who is watching, if anybody is."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(step, name, score)
