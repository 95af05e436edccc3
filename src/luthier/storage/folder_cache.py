"""A directory of stored folders, bounded in size: what was not used for longest makes room for new ones."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from luthier.errors import WorkspaceError

logger = logging.getLogger(__name__)
# How `luthier.storage.sealed_folder` calls folders that are on their way in or out, and seconds without a write after
# which one is left over.
UNFINISHED = (".writing-", ".removing-")
LEFT_ALONE = 2 * 24 * 3600.0


class FolderCache:
    """A directory with one folder an entry.

    Args:
        directory: holds the entries.
        max_bytes: what all of them may take.
    """

    # A file that every whole entry has.
    marker: ClassVar[str] = "seal.txt"
    holds: ClassVar[str] = "this result"
    fix: ClassVar[str] = "raise max_bytes"

    def __init__(self, directory: str | Path, max_bytes: int) -> None:
        self.directory, self.max_bytes = Path(directory), max_bytes

    def size(self) -> int:
        """Bytes that are stored."""
        return sum(bytes_of(folder) for folder in self._folders())

    def make_room(self, needed: int, keep: Collection[Path] = ()) -> None:
        """Remove what was not used for longest until `needed` more bytes fit.

        Args:
            keep: entries that are needed together with the new one, and stay.

        Raises:
            WorkspaceError: they never will.
        """
        kept = sum(map(bytes_of, keep))
        if needed + kept > self.max_bytes:
            beside = f" beside {kept:,} that it is used with" if kept else ""
            raise WorkspaceError(
                f"{self.holds} would take {needed:,} bytes{beside}, and the cache may hold {self.max_bytes:,}",
                where=str(self.directory),
                fix=self.fix,
            )
        self._sweep()
        oldest_first = sorted(self._folders(), key=_last_used)
        free = self.max_bytes - sum(bytes_of(folder) for folder in oldest_first)
        for folder in oldest_first:
            if free >= needed:
                return
            if folder in keep:
                continue
            free += bytes_of(folder)
            logger.info("removing %s to make room", folder)
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Delete what processes that were killed left half written, which would else stay for ever."""
        for name in UNFINISHED:
            for folder in self.directory.glob(f"{name}*"):
                if time.time() - _last_written(folder) > LEFT_ALONE:
                    logger.info("removing %s, which nobody goes on with", folder)
                    shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        entries = self.directory.iterdir() if self.directory.is_dir() else iter(())
        return [p for p in entries if (p / self.marker).is_file() and not p.name.startswith(UNFINISHED)]


def mark_used(folder: Path) -> None:
    """Note that an entry was used now. In a cache that is read only, nothing is dropped, so nothing is noted."""
    with suppress(OSError):
        os.utime(folder)


def bytes_of(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where another process removed it."""
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0


def _last_written(folder: Path) -> float:
    """When a folder, or anything in it, was last written to; now, where another process removed it meanwhile."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:
        return time.time()


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
