"""A run of several processes, as torchrun starts them: the main one runs the recipe, the others train along with it.

The main process alone holds the run directory, reads, evaluates and writes. The others wait for it to call them to a
piece of work (`joined`), do that together with it, and wait again. An error that every process learns of at the same
point ends that piece of work alone; any other leaves the processes out of step, and ends the run.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from luthier.errors import LuthierError, WorkspaceError
from luthier.storage.one_version import one_version, versions_seen

T = TypeVar("T")
# What the others wait for may take days: an evaluation, or a stage of the main process alone. A process that dies ends
# the waiting at once.
PATIENCE = timedelta(days=30)
NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")


class OtherProcessError(LuthierError):
    """What went wrong was found by another process of the run, which tells of it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class _State:
    """Of this process.

    Attributes:
        group: over which objects are sent; None before the first run.
        conducting: whether a run is going on.
        joined: whether all processes are at one piece of work.
        met: whether each has told the others that it has come to it.
        broken: whether the processes are out of step.
        shared_error: the error that every process learnt of last.
    """

    group: Any = None
    conducting: bool = False
    joined: bool = False
    met: bool = False
    broken: bool = False
    shared_error: BaseException | None = None


_state = _State()


def world_size() -> int:
    """How many processes the run is of."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK") or 0) if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def several_processes() -> dict[str, int]:
    """What a key says of the processes, each of which takes `batch_size` rows at a time; nothing of a single one."""
    return {"processes": world_size()} if world_size() > 1 else {}


def conducted(work: Callable[[], T]) -> T:
    """Do `work` in the main process, and train along with it in the others.

    Returns:
        What it gave, in every process.

    Raises:
        OtherProcessError: it failed, in a process that is not the main one.
        WorkspaceError: several processes were started without what they find each other by, or one of them is gone.
    """
    if world_size() == 1 or _state.conducting:
        return work()
    _connect()
    _state.conducting = True
    try:
        if not is_main():
            result: T = _follow()
            return result
        value = work()
    except BaseException as error:
        if is_main():
            _dismiss(None, described(error))
        raise
    finally:
        _state.conducting = False
    _dismiss(value, None)
    return value


@contextmanager
def joined(work: str, *arguments: Any) -> Iterator[None]:
    """A piece of work that the main process calls all others to; each of them has to come to `meeting` in it.

    Args:
        work: "module:function" that the others call.
        arguments: of that function.
    """
    if world_size() == 1:
        yield
        return
    if _state.broken:
        raise _lost()
    _send(("join", work, arguments, versions_seen()))
    with _at_work():
        yield


@contextmanager
def meeting() -> Iterator[None]:
    """What each process gets ready for a common piece of work. All go on from here, or none does.

    Raises:
        WorkspaceError: the others were not called.
        OtherProcessError: another process could not get ready.
    """
    if world_size() == 1:
        yield
        return
    if not _state.joined:
        raise WorkspaceError(
            f"this work is one process's, and WORLD_SIZE says that {world_size()} were started",
            fix="start it with `luthier run`, without torchrun or accelerate launch",
        )
    try:
        yield
    except Exception as error:
        _meet(error)
        raise
    _meet(None)


def from_main(work: Callable[[], T]) -> T:
    """What `work` gives in the main process, in every process; an error of it is an error of all.

    Raises:
        OtherProcessError: it failed, in a process that is not the main one.
    """
    if world_size() == 1:
        return work()
    if not is_main():
        value, failure = _receive()
        if failure is not None:
            raise all_know(OtherProcessError(*failure))
        result: T = value
        return result
    try:
        value = work()
    except Exception as error:
        _send((None, described(error)))
        raise all_know(error) from error.__cause__
    _send((value, None))
    return value


def gathered(value: T) -> list[T]:
    """The values of all processes by their number, in every process."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    with _telling_of_loss():
        dist.all_gather_object(values, value, group=_state.group)
    return values


def agree(error: LuthierError | None) -> None:
    """Raise an error that one process found in all of them; none where none found any.

    Raises:
        LuthierError: the own error, or the first one of another process.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    failures = gathered(None if error is None else described(error))
    if error is not None:
        raise all_know(error)
    for number, failure in enumerate(failures):
        if failure is not None:
            raise all_know(OtherProcessError(f"process {number}: {failure[0]}", failure[1]))


# -- the two sides -----------------------------------------------------------------------------------------------


def _connect() -> None:
    if _state.group is not None:
        return
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        raise WorkspaceError(
            f"WORLD_SIZE says that {world_size()} processes were started, and {', '.join(missing)} is not set",
            fix="start them with `torchrun --nproc_per_node N -m luthier.cli run recipe.yaml`, or a single one without "
            "WORLD_SIZE",
        )
    import torch
    import torch.distributed as dist

    with _telling_of_loss():
        if not dist.is_initialized():
            backend = "gloo"
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))
                backend = "cpu:gloo,cuda:nccl"
            dist.init_process_group(backend)
            atexit.register(_disconnect)
        _state.group = dist.new_group(backend="gloo", timeout=PATIENCE)


def _disconnect() -> None:
    import torch.distributed as dist

    if not _state.broken and dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _dismiss(value: Any, failure: tuple[str, int] | None) -> None:
    """Let the other processes go."""
    if not _state.broken:
        with suppress(WorkspaceError):
            _send(("end", value, failure, None))


def _follow() -> Any:
    while True:
        order, what, arguments, seen = _receive()
        if order == "join":
            _come_along(what, arguments, seen)
            continue
        if arguments is not None:
            _message, exit_code = arguments
            raise OtherProcessError(f"process {rank()} ends, since the main process failed", exit_code)
        return what


def _come_along(work: str, arguments: tuple[Any, ...], seen: dict[str, str]) -> None:
    module, _, function = work.partition(":")
    try:
        with _at_work(), one_version(seen):
            try:
                getattr(importlib.import_module(module), function)(*arguments)
            except Exception as error:
                if not _state.met and error is not _state.shared_error:
                    _meet(error)
                raise
    except Exception as error:
        if error is not _state.shared_error:
            raise


@contextmanager
def _at_work() -> Iterator[None]:
    _state.joined, _state.met, _state.shared_error = True, False, None
    try:
        with _telling_of_loss():
            yield
    except BaseException as error:
        _state.broken = error is not _state.shared_error
        raise
    finally:
        _state.joined = False


def _meet(error: Exception | None) -> None:
    if _state.met:
        return
    _state.met = True
    failures = gathered(None if error is None else described(error))
    if error is not None:
        all_know(error)
        return
    for number, failure in enumerate(failures):
        if failure is not None:
            raise all_know(OtherProcessError(f"process {number} could not begin: {failure[0]}", failure[1]))


def all_know(error: BaseException) -> BaseException:
    """Take note of an error that every process has learnt of at the same point, so that all stay in step."""
    _state.shared_error = error
    return error


def is_out_of_step() -> bool:
    """Whether the processes can no longer speak to each other."""
    return _state.broken


def described(error: BaseException) -> tuple[str, int]:
    if isinstance(error, LuthierError):
        return str(error), error.exit_code
    return f"unexpected {type(error).__name__}: {error}", 1


# -- sending -----------------------------------------------------------------------------------------------------


def _send(value: Any) -> None:
    import torch.distributed as dist

    with _telling_of_loss():
        dist.broadcast_object_list([value], src=0, group=_state.group)


def _receive() -> Any:
    import torch.distributed as dist

    values: list[Any] = [None]
    with _telling_of_loss():
        dist.broadcast_object_list(values, src=0, group=_state.group)
    return values[0]


def dealt(parts: list[Any] | None) -> Any:
    """This process's part of those that the main one deals out, one for each process; None in the others."""
    import torch.distributed as dist

    own: list[Any] = [None]
    with _telling_of_loss():
        dist.scatter_object_list(own, parts, src=0, group=_state.group)
    return own[0]


def collected(value: T) -> list[T] | None:
    """The values of all processes by their number, in the main one; None in the others."""
    import torch.distributed as dist

    values: list[Any] | None = [None] * world_size() if is_main() else None
    with _telling_of_loss():
        dist.gather_object(value, values, dst=0, group=_state.group)
    return values


@contextmanager
def _telling_of_loss() -> Iterator[None]:
    """A block in which processes speak to each other: when one is gone, that is the error.

    Raises:
        WorkspaceError: a process of the run has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        _state.broken = True
        raise _lost() from error


def _is_loss(error: RuntimeError) -> bool:
    import torch.distributed as dist

    if isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return True
    said = str(error)
    return any(part in said for part in ("Connection closed by peer", "Connection reset by peer", "gloo/transport"))


def _lost() -> WorkspaceError:
    return WorkspaceError(
        f"another process of the run has ended, so process {rank()} can't go on",
        fix="see what that one said; then run the same command again: it goes on from the newest whole checkpoint",
    )
