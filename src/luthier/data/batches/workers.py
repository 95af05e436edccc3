"""Work on rows that other processes do, some rows ahead of the one that asks, in the order of the rows."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from luthier.errors import LuthierError, TrainingError

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
M = TypeVar("M")
# Items that are drawn ahead for each worker: one that it works on, one that waits.
_AHEAD = 2
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class InOrder(Generic[T, R]):
    """Calls a function on one item after another, in worker processes if asked.

    This process alone draws the items, so that their order, and what is drawn at random for it, is the same with and
    without workers. With workers some items are drawn before the results of earlier ones are given; what has to be
    known of each, such as the place in a source behind it, comes along with it as its mark, which stays here. Where a
    worker ends by itself, this process does the work from there on.

    Args:
        function: what is done with an item; items and results travel between processes.
        workers: how many processes do it; 0 does it here, and draws each item when its result is asked for.
    """

    def __init__(self, function: Callable[[T], R], workers: int = 0) -> None:
        self._function, self.workers = function, workers
        self._pool: ProcessPoolExecutor | None = None
        self._broken = False

    def __call__(self, items: Iterator[tuple[T, M]]) -> Iterator[tuple[R, M]]:
        """The result of each item, and its mark.

        Raises:
            LuthierError: drawing an item, or the function, raised it; what comes before is given first.
            TrainingError: this process may not start workers.
        """
        coming = _held_back(items)
        ahead: deque[_Asked[T, M]] = deque()
        while True:
            wanted = _AHEAD * self.workers if self.workers and not self._broken else 1
            while len(ahead) < wanted and (drawn := next(coming, None)) is not None:
                ahead.append(self._asked(drawn))
            if not ahead:
                return
            asked = ahead.popleft()
            yield self._result(asked), cast(M, asked.mark)

    def close(self) -> None:
        """End the workers; the next call starts others."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _asked(self, drawn: _Asked[T, M]) -> _Asked[T, M]:
        if drawn.error is None and self.workers and not self._broken:
            try:
                drawn.future = self._started().submit(_done_here, drawn.item)
            except BrokenProcessPool:
                self._go_on_alone()
        return drawn

    def _result(self, asked: _Asked[T, Any]) -> R:
        if asked.error is not None:
            raise asked.error
        if asked.future is not None:
            try:
                found = asked.future.result()
            except BrokenProcessPool:
                self._go_on_alone()
            else:
                if isinstance(found, _Failed):
                    raise found.error()
                return cast(R, found)
        return self._function(cast(T, asked.item))

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            refuse_helpers_of_helpers()
            context = multiprocessing.get_context(_context())
            with quiet_forks():
                self._pool = ProcessPoolExecutor(self.workers, context, _begin, (self._function,))
                for _ in range(self.workers):  # the first one starts all of them where they are forked
                    self._pool.submit(os.getpid)
        return self._pool

    def _go_on_alone(self) -> None:
        if not self._broken:
            logger.warning("a worker that makes rows ready has ended: from here on they are made ready without any")
        self._broken = True
        self.close()


@dataclass
class _Asked(Generic[T, M]):
    """An item, or the error in its place, and the result that is being made of it; none yet where that is done here."""

    item: T | None = None
    mark: M | None = None
    error: LuthierError | None = None
    future: Future[Any] | None = None


def _held_back(items: Iterator[tuple[T, M]]) -> Iterator[_Asked[T, M]]:
    """The items, and an error of drawing them in its place."""
    try:
        for item, mark in items:
            yield _Asked(item, mark)
    except LuthierError as error:
        yield _Asked(error=error)


class _Failed:
    """An error that travels between processes."""

    def __init__(self, error: LuthierError) -> None:
        # Classes elsewhere may take other arguments, or not be known to the other process.
        self._kind = next(one for one in type(error).__mro__ if one.__module__ == LuthierError.__module__)
        self._what, self._where, self._fix = error.what, error.where, error.fix

    def error(self) -> LuthierError:
        return cast(LuthierError, self._kind(self._what, where=self._where, fix=self._fix))


# -- in a worker ---------------------------------------------------------------------------------------------------

_function: Callable[[Any], Any] | None = None


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def _done_here(item: Any) -> Any:
    assert _function is not None
    try:
        return _function(item)
    except LuthierError as error:
        return _Failed(error)


def end_with_parent() -> None:
    """Leave Ctrl-C to the process that this one works for, and end when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it ended before this was set
            os._exit(1)


# -- workers of a data loader --------------------------------------------------------------------------------------


def worker_options(workers: int) -> dict[str, Any]:
    """Arguments of a `torch.utils.data.DataLoader` for so many workers, none by default.

    Raises:
        TrainingError: this process may not start any.
    """
    if not workers:
        return {}
    refuse_helpers_of_helpers()
    return {"num_workers": workers, "multiprocessing_context": _context(), "worker_init_fn": _begin_loading}


def _begin_loading(_number: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a stopped run takes its step to the end first


def _context() -> str | None:
    """A fork shares the tokenizer and the rows that are read; elsewhere the platform's own way."""
    return "fork" if sys.platform == "linux" else None


def refuse_helpers_of_helpers() -> None:
    """Say that a process which another one keeps as its helper can't start workers.

    Raises:
        TrainingError: this is one.
    """
    if multiprocessing.current_process().daemon:
        raise TrainingError(
            "a process that another one keeps as its helper can't start workers",
            fix="set `workers: 0`, or leave it out",
        )


@contextmanager
def quiet_forks() -> Iterator[None]:
    """Start workers without a warning from each of them that its tokenizer goes on with one thread."""
    earlier = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = earlier or "false"
    try:
        yield
    finally:
        if earlier is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)


@contextmanager
def telling_of_dead_workers() -> Iterator[None]:
    """Tell of a worker that ended, which may come up anywhere while there are workers, as of the user's concern.

    Raises:
        TrainingError: a worker ended by itself.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"a worker that makes rows ready ended: {str(error).splitlines()[0]}",
            fix="where memory, or /dev/shm, ran out, set fewer `workers`; run the same command again to go on",
        ) from error
