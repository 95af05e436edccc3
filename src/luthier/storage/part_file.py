"""A file of lines that grows while a long command runs, and that the same command goes on with when it was stopped."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from luthier.errors import WorkspaceError
from luthier.storage.files import reporting_failed_writes, sync


class PartFile:
    """The lines so far of a file that is not whole yet, beside its place.

    Attributes:
        path: where they are.
        lines: how many there are.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, 0
        if path.exists():
            with reporting_failed_writes(path), path.open("r+b") as file:
                whole = 0
                for line in file:
                    if line.endswith(b"\n"):
                        self.lines += 1
                        whole += len(line)
                file.truncate(whole)

    def append(self, text: str) -> None:
        """Add whole lines, which are there after a power cut, too.

        Raises:
            WorkspaceError: they can't be written; the lines before are still there.
        """
        with reporting_failed_writes(self.path):
            with self.path.open("ab") as file:
                file.write(text.encode(errors="backslashreplace"))
            sync(self.path)
        self.lines += text.count("\n")


@contextmanager
def part_file(place: Path, key: str) -> Iterator[PartFile]:
    """The lines that an earlier command with this key left, or none; at the end of the block they become the file.

    Where the block fails they stay, and a command with the same key goes on with them; one with another key removes
    them. No second process writes to the same place.

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
        part = PartFile(path)
        yield part
        with reporting_failed_writes(place):
            path.touch()
            os.replace(path, place)
    finally:
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()
