"""What a long command has made so far, kept beside its output, so that the same command goes on when it was stopped."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from luthier.errors import WorkspaceError
from luthier.storage.files import reporting_failed_writes, sync

_LONGEST_NAME = 180
_HEAD = re.compile(rb"([0-9a-f]{64}) ([0-9a-f]{16})\n")
_HEAD_BYTES = 64 + 1 + 16 + 1


class KeptParts:
    """Parts of a result, each under the key of what it was made from, in one file that grows.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        if path.exists():
            with reporting_failed_writes(path), path.open("r+b") as file:
                file.truncate(self._find(file))

    def _find(self, file: IO[bytes]) -> int:
        """Take note of the whole parts; the bytes that they take, behind which is what a stop cut short."""
        size, whole = file.seek(0, os.SEEK_END), 0
        while True:
            file.seek(whole)
            head = _HEAD.fullmatch(file.read(_HEAD_BYTES))
            start = whole + _HEAD_BYTES
            if head is None or start + int(head[2], 16) > size:
                return whole
            self._places[head[1].decode()] = start, int(head[2], 16)
            whole = start + int(head[2], 16)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(self, key: str, content: bytes) -> None:
        """Keep a part, which is there after a power cut, too.

        Args:
            key: SHA-256, in hex.
            content: of the part.

        Raises:
            WorkspaceError: it can't be written; the parts before are still there.
        """
        with reporting_failed_writes(self.path):
            with self.path.open("ab") as file:
                start = file.tell() + _HEAD_BYTES
                file.write(f"{key} {len(content):016x}\n".encode() + content)
            sync(self.path)
        self._places[key] = start, len(content)

    def read(self, key: str) -> bytes:
        """The content of a part."""
        start, size = self._places[key]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(size)


@contextmanager
def kept_parts(place: Path, key: str) -> Iterator[KeptParts]:
    """Parts that an earlier command with this key left beside its output, or none.

    They go at the end of the block, which writes the output. Where it fails they stay, and a command with the same key
    goes on with them; one with another key removes them. No second process writes to the same place.

    Args:
        place: of the output.
        key: of all that every part depends on.

    Raises:
        WorkspaceError: another process writes the output, or the place can't be written.
    """
    from filelock import FileLock, Timeout

    name = place.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    lock = FileLock(place.with_name(f".{name}.lock"), timeout=0)
    with reporting_failed_writes(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise WorkspaceError(
                "another process is writing this file", where=str(place), fix="wait for it to end, or name another file"
            ) from None
    try:
        path = place.with_name(f"{name}.{key[:16]}.part")
        with reporting_failed_writes(place):
            for other in place.parent.glob(f"{glob.escape(name)}.{'[0-9a-f]' * 16}.part"):
                if other != path and other.is_file():
                    other.unlink(missing_ok=True)
        yield KeptParts(path)
        with reporting_failed_writes(place):
            path.unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
