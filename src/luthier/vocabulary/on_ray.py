"""The steps of languages and clusters as tasks of Ray, on as many machines as a cluster has.

All machines need the same version of Luthier, and the folder of the run, the user's cache and the text at the same
paths, on a file system that they share: steps leave their artefacts there, and what goes over the network is where.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from luthier.errors import DataError, LuthierError, WorkspaceError
from luthier.extras import how_to_install, is_installed
from luthier.storage.files import reporting_failed_writes
from luthier.storage.hashing import cache_directory
from luthier.storage.steps import Step
from luthier.vocabulary.settings import RaySettings
from luthier.vocabulary.steps import made_by

LOCAL = "local"
# Tasks that are handed to Ray, for each processor: some more than run, so that none waits for this process.
_AHEAD = 2
# Seconds in which a cluster has to answer.
_PATIENCE = 10
_VARIABLES = ("LUTHIER_CACHE", "LUTHIER_DATA")


@dataclass(frozen=True)
class Place:
    """What a task has to find as it is here.

    Attributes:
        folder: that relative paths start from.
        variables: of the environment.
    """

    folder: str
    variables: dict[str, str]

    @classmethod
    def here(cls) -> Place:
        """That of this process."""
        known = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        return cls(str(Path.cwd()), {**known, "LUTHIER_CACHE": str(cache_directory().absolute())})

    def enter(self) -> None:
        """Make this process one that finds it."""
        os.environ.update(self.variables)
        os.chdir(self.folder)


class OnRay:
    """Tasks of the Ray that this process is connected to.

    Args:
        settings: what a task asks for.
    """

    def __init__(self, settings: RaySettings) -> None:
        self.settings, self.place = settings, Place.here()

    def map(self, function: Callable[..., Step], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Step]:
        import ray

        asked = {"num_cpus": 1, **({} if self.settings.memory_gb is None else {"memory": self._bytes()})}
        task = ray.remote(_work).options(**asked)
        most = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        unfinished: list[Any] = []
        try:
            for job in jobs:
                while len(unfinished) >= most:
                    _, unfinished = ray.wait(unfinished)
                    while waiting[0] not in unfinished:
                        yield _result_of(waiting.popleft())
                waiting.append(task.remote(self.place, function, job))
                unfinished.append(waiting[-1])
            while waiting:
                yield _result_of(waiting.popleft())
        except LuthierError:
            if waiting:  # nothing may work on the steps any more when the next call comes
                ray.wait(list(waiting), num_returns=len(waiting))
            raise

    def check(self, folder: Path) -> None:
        """See that a task can run on every machine and finds there what it needs.

        Raises:
            DataError: no machine has the processor or the memory that a task asks for.
            WorkspaceError: a machine does not see the folder or the cache, or has another version of Luthier.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        wanted = self._bytes()
        if not any(n["Resources"].get("CPU", 0) >= 1 and n["Resources"].get("memory", 0) >= wanted for n in nodes):
            raise DataError(
                "no machine of the Ray cluster has a processor and the memory that a task asks for",
                where="ray",
                fix="lower `memory_gb`, or start a machine that has them",
            )
        version = _version()
        with _marks(folder, cache_directory()) as marks:
            for node in nodes:
                here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
                task = ray.remote(_missing).options(num_cpus=0, scheduling_strategy=here)
                problem = _result_of(task.remote(self.place, marks, version))
                if problem is not None:
                    raise WorkspaceError(
                        f"the machine {node['NodeManagerHostname']} of the Ray cluster {problem}",
                        where="ray",
                        fix="give all machines the same Luthier, and one shared file system with the run's folder, "
                        "the working directory and LUTHIER_CACHE at the same paths",
                    )

    def _bytes(self) -> int:
        return int((self.settings.memory_gb or 0) * 1e9)


@contextmanager
def on_ray(settings: RaySettings, folder: Path) -> Iterator[OnRay]:
    """Connect to Ray, unless this process is connected already, and let go at the end.

    Args:
        folder: where the steps are done.

    Raises:
        DataError: Ray is not installed, or can't be reached.
        WorkspaceError: see `OnRay.check`.
    """
    if not is_installed("ray"):
        raise DataError("`ray` needs Ray, which is not installed", where="ray", fix=how_to_install("ray"))
    # Read when Ray is imported; it would otherwise report how it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    own = not ray.is_initialized()
    if own:
        _connect(settings.address)
    try:
        workers = OnRay(settings)
        workers.check(folder)
        yield workers
    finally:
        if own:
            ray.shutdown()


def _connect(address: str) -> None:
    import ray

    options = {"include_dashboard": False} if address == LOCAL else {}
    host, _, port = address.rpartition(":")
    try:
        if host:  # Ray itself tries for minutes, and may then end the process
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"Ray can't be reached at {address!r}: {reason}",
            where="ray.address",
            fix=f"start it with `ray start --head`, or set `address: {LOCAL}`",
        ) from error


def _work(place: Place, function: Callable[..., Step], job: tuple[Any, ...]) -> Step:
    place.enter()
    return function(*job)


def _missing(place: Place, marks: Sequence[Path], version: str) -> str | None:
    """What a machine lacks; None where all is there."""
    try:
        place.enter()
    except OSError:
        return f"has no folder {place.folder}"
    for mark in marks:
        if not mark.is_file():
            return f"does not see {mark.parent}"
    return None if _version() == version else "has another version of Luthier or of what it needs"


def _version() -> str:
    return str(made_by()["code"])


@contextmanager
def _marks(*folders: Path) -> Iterator[list[Path]]:
    """A file in each folder, for as long as the block runs."""
    marks = [folder.absolute() / f".ray-{uuid4().hex}" for folder in folders]
    try:
        for mark in marks:
            with reporting_failed_writes(mark):
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
        yield marks
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


def _result_of(waiting: Any) -> Any:
    """What a task gives.

    Raises:
        LuthierError: what it raised.
        WorkspaceError: Ray lost it.
    """
    import ray

    try:
        return ray.get(waiting)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LuthierError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkspaceError(
            f"a task was lost on the Ray cluster: {reason}",
            where="ray",
            fix="run the same command again: finished steps are kept. Where memory ran out, set `ray.memory_gb`",
        ) from error
