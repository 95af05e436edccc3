"""One changed file read by what reads it: whether that went as it must."""

from __future__ import annotations

import shutil
import signal
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from tests.fuzzing.targets import SLOW, Target


@dataclass(frozen=True)
class Finding:
    """What should not have happened.

    Attributes:
        target: whose reader it was.
        file, content: the changed one.
        key: which tells findings apart, by the place in Luthier that the error came through.
        text: the traceback.
    """

    target: str
    file: str
    content: bytes
    key: str
    text: str


class TookTooLongError(BaseException):
    """A case that does not end; no `except Exception` stops it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `TookTooLongError` when more processor time is used."""

    def stop(*_: Any) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def tried(target: Target, folder: Path, name: str, content: bytes, sound: Mapping[str, bytes]) -> Finding | None:
    """Read the folder with one file changed, and put it back as it was."""
    (folder / name).write_bytes(content)
    try:
        with within(SLOW):
            target.run(folder)
    except LuthierError as error:
        try:
            str(error).encode("utf-8")
        except UnicodeError as broken:
            return _finding(target, name, content, broken, "a message that can't be written")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        return _finding(target, name, content, error)
    finally:
        (folder / name).write_bytes(sound[name])
        shutil.rmtree(folder / "runs", ignore_errors=True)
    return None


def _finding(target: Target, name: str, content: bytes, error: BaseException, what: str = "") -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "/luthier/" in one.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].name}:{own[-1].lineno}"
    told = "".join(traceback.format_exception(error))
    return Finding(target.name, name, content, f"{type(error).__name__} {what} at {place}", told)
