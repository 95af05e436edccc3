"""A file that grows while a long command runs, and that the same command goes on with when it was stopped."""

from __future__ import annotations

import glob
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from luthier.errors import WorkspaceError
from luthier.storage.files import reporting_failed_writes, sync

if TYPE_CHECKING:
    import numpy as np


class PartFile:
    """What there is so far of a file that is not whole yet, beside its place.

    Attributes:
        path: where it is.
        count: how many entries it has.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        if path.exists():
            with reporting_failed_writes(path), path.open("r+b") as file:
                self.count, whole = self._whole(file)
                file.truncate(whole)

    def _whole(self, file: IO[bytes]) -> tuple[int, int]:
        """How many entries a file has, and the bytes that they take; what a stop cut short is behind them."""
        raise NotImplementedError

    def _add(self, content: bytes, count: int) -> None:
        with reporting_failed_writes(self.path):
            with self.path.open("ab") as file:
                file.write(content)
            sync(self.path)
        self.count += count


class Lines(PartFile):
    """Lines of text."""

    def _whole(self, file: IO[bytes]) -> tuple[int, int]:
        lines = [len(line) for line in file if line.endswith(b"\n")]
        return len(lines), sum(lines)

    def append(self, text: str) -> None:
        """Add whole lines, which are there after a power cut, too.

        Raises:
            WorkspaceError: they can't be written; the lines before are still there.
        """
        self._add(text.encode(errors="backslashreplace"), text.count("\n"))

    def lines(self) -> Iterator[str]:
        """What was added, line by line."""
        if self.path.exists():
            with self.path.open(encoding="utf8") as file:
                yield from file


class Arrays(PartFile):
    """Arrays whose rows together are one array."""

    def _whole(self, file: IO[bytes]) -> tuple[int, int]:
        from numpy.lib import format as npy

        rows = whole = 0
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with suppress(ValueError):
            while whole < size:
                npy.read_magic(file)
                shape, _, dtype = npy.read_array_header_1_0(file)
                end = file.tell() + math.prod(shape) * dtype.itemsize
                if end > size:
                    break
                rows, whole = rows + shape[0], end
                file.seek(end)
        return rows, whole

    def append(self, array: np.ndarray) -> None:
        """Add an array, as `Lines.append` adds lines."""
        import numpy as np

        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        self._add(content.getvalue(), len(array))

    def joined(self) -> np.ndarray:
        """All rows, of which there is one at least."""
        import numpy as np

        found, size = [], self.path.stat().st_size
        with self.path.open("rb") as file:
            while file.tell() < size:
                found.append(np.load(file, allow_pickle=False))
        return np.concatenate(found)


Kind = TypeVar("Kind", bound=PartFile)


@contextmanager
def part_file(place: Path, key: str, kind: type[Kind], *, becomes: bool) -> Iterator[Kind]:
    """What an earlier command with this key left, or nothing.

    Where the block fails it stays, and a command with the same key goes on with it; one with another key removes it.
    No second process writes to the same place.

    Args:
        place: of the file.
        key: of all that the entries depend on.
        kind: of the entries.
        becomes: whether the entries are the file at the end of the block; else the block writes it, and they go.

    Raises:
        WorkspaceError: another process writes the file, or the place can't be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(place.with_name(f".{place.name}.lock"), timeout=0)
    with reporting_failed_writes(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise WorkspaceError(
                "another process is writing this file", where=str(place), fix="wait for it to end, or name another file"
            ) from None
    try:
        path = place.with_name(f"{place.name}.{key[:16]}.part")
        for other in place.parent.glob(f"{glob.escape(place.name)}.{'[0-9a-f]' * 16}.part"):
            if other != path:
                other.unlink(missing_ok=True)
        part = kind(path)
        yield part
        with reporting_failed_writes(place):
            if becomes:
                path.touch()
                path.replace(place)
            else:
                path.unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
