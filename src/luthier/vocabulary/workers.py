"""Where the steps of languages and clusters are worked on: in this process, in several of this machine, or on Ray."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from luthier.errors import WorkspaceError
from luthier.progress import track
from luthier.storage.steps import Step
from luthier.vocabulary.settings import VocabularySettings

Job = tuple[Any, ...]


class Workers(Protocol):
    """Who works on jobs."""

    def map(self, function: Callable[..., Step], jobs: Sequence[Job]) -> Iterator[Step]:
        """The steps of several jobs, in their order, whichever ends first.

        Args:
            function: of a module, and so are its arguments such as can be sent to another process.
            jobs: arguments of each call.

        Raises:
            LuthierError: that of the first job in order that has one; jobs behind it may not have been done.
        """
        ...


class Processes:
    """Processes of this machine; one is this process itself.

    Args:
        count: jobs that are worked on at a time.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def map(self, function: Callable[..., Step], jobs: Sequence[Job]) -> Iterator[Step]:
        if self.count == 1 or len(jobs) < 2:
            for job in jobs:
                yield function(*job)
            return
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(min(self.count, len(jobs)), mp_context=context) as pool:
                yield from pool.map(function, *zip(*jobs, strict=True))
        except BrokenProcessPool as error:
            raise WorkspaceError(
                "a process that worked on a language or a cluster was ended from outside, often since memory ran out",
                fix="run again, which goes on where it was; with fewer `processes` less memory is needed",
            ) from error


@contextmanager
def workers_of(settings: VocabularySettings, folder: Path) -> Iterator[Workers]:
    """Those that the settings name, for as long as the block runs.

    Args:
        folder: where the steps are done.

    Raises:
        DataError, WorkspaceError: Ray is not installed, not there, or its machines don't see the folder.
    """
    if settings.ray is None:
        yield Processes(settings.processes)
        return
    from luthier.vocabulary.on_ray import on_ray

    with on_ray(settings.ray, folder) as workers:
        yield workers


def each(workers: Workers, function: Callable[..., Step], jobs: Sequence[Job], told: str) -> list[Step]:
    """The steps of several jobs, in their order, with a progress bar."""
    done: list[Step] = []
    with track(told, len(jobs)) as bar:
        for number, step in enumerate(workers.map(function, jobs), 1):
            done.append(step)
            bar.update(number)
    return done
