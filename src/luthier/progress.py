"""Progress bars for long work, shared by everything that runs inside one display."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from luthier.errors import InterruptedRunError

DONE = "done"
_display: ContextVar[Any] = ContextVar("luthier_progress", default=None)
# The bar of the work that is done in parts, and how much of it was done before this part.
_whole: ContextVar[Any] = ContextVar("luthier_whole", default=None)


@contextmanager
def progress_display(enabled: bool = True) -> Iterator[None]:
    """Show the bars of every `track` inside this block; a block inside another one joins it.

    Where standard error is no terminal, each task prints one line when it ends instead of a moving bar.
    """
    if not enabled or _display.get() is not None:
        yield
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        token = _display.set((progress, console))
        try:
            yield
        finally:
            _display.reset(token)


def tell(text: str) -> None:
    """Print one line above the bars of the surrounding display; nothing where there is none."""
    shown: tuple[Any, Any] | None = _display.get()
    if shown is not None:
        shown[1].print(text, markup=False, highlight=False, soft_wrap=True)


class Track:
    """One task of a display."""

    def __init__(self, description: str, total: float | None) -> None:
        self.description, self.total, self.note = description, total, ""
        shown: tuple[Any, Any] = _display.get() or (None, None)
        self._progress, self._console = shown
        self._task = self._progress.add_task(description, total=total, note="") if self._progress is not None else None

    def update(self, completed: float, note: str | None = None) -> None:
        """Set how much of `total` is done, and a short remark behind the bar."""
        self.note = self.note if note is None else note
        if self._progress is not None:
            self._progress.update(self._task, completed=completed, note=self.note)

    def close(self, ending: str = DONE) -> None:
        """Take the bar away. Where none is shown, `ending` is told, or the remark in place of a plain `done`."""
        if self._progress is None:
            return
        if self._progress.disable:
            told = (self.note or ending) if ending == DONE else ", ".join(filter(None, (ending, self.note)))
            self._console.print(f"{self.description}: {told}", markup=False, highlight=False, soft_wrap=True)
        self._progress.remove_task(self._task)
        self._progress = None


class _Part(Track):
    """A part of a task of which the bar is there already: moves it on, or, of another name, nothing."""

    def __init__(self, description: str, total: float | None) -> None:
        self.description, self.total, self.note = description, total, ""
        self._bar, self._before = _whole.get()

    def update(self, completed: float, note: str | None = None) -> None:
        if self._bar.description == self.description:
            self._bar.update(self._before + completed, note)

    def close(self, ending: str = DONE) -> None:
        pass


@contextmanager
def part_of(bar: Track, before: float) -> Iterator[None]:
    """A part of a task: a `track` of the same name inside moves its bar on, and those of other names are silent.

    Args:
        bar: of the task.
        before: what of it is done.
    """
    token = _whole.set((bar, before))
    try:
        yield
    finally:
        _whole.reset(token)


@contextmanager
def track(description: str, total: float | None = None) -> Iterator[Track]:
    """A task of the surrounding display, or a silent one where there is none."""
    task = Track(description, total) if _whole.get() is None else _Part(description, total)
    try:
        yield task
    except (KeyboardInterrupt, InterruptedRunError):
        task.close("stopped")
        raise
    except BaseException:
        task.close("failed")
        raise
    task.close()
