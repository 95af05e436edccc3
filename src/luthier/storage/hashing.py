"""SHA-256 of files; a file that has not changed since it was last hashed is not read again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from luthier.storage.files import sha256_of

_WORTH_REMEMBERING = 1 << 24
_CLOCK_TICK = 2.0  # seconds, of the coarsest file systems


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file's content; that of a large file is remembered by its path, size and times."""
    before = path.stat()
    if before.st_size < _WORTH_REMEMBERING:
        return sha256_of(path)
    identity = f"{path.resolve()}|{_state(before)}"
    note = cache_directory() / "sha256" / hashlib.sha256(identity.encode()).hexdigest()
    try:
        known, check = note.read_text().split()
        if check == _check(identity, known):
            return known
    except (OSError, ValueError):
        pass
    started = time.time()
    digest = sha256_of(path)
    # A write within one tick of the clock would leave the times as they are.
    settled = started - max(before.st_mtime, before.st_ctime) > _CLOCK_TICK
    if settled and _state(path.stat()) == _state(before):
        _write_note(note, f"{digest} {_check(identity, digest)}\n")
    return digest


def _state(stat: os.stat_result) -> str:
    return f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"


def _check(identity: str, digest: str) -> str:
    return hashlib.sha256(f"{identity}|{digest}".encode()).hexdigest()


def _write_note(note: Path, text: str) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch = note.with_name(f"{note.name}.{os.getpid()}")
        scratch.write_text(text)
        scratch.replace(note)
    except OSError:
        pass  # a cache that can't be written costs time, not correctness


def cache_directory() -> Path:
    """`LUTHIER_CACHE`, or `luthier` in the user's cache directory."""
    if named := os.environ.get("LUTHIER_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier"


def combined_sha256(root: Path, files: Iterable[Path]) -> str:
    """One SHA-256 over the names (relative to `root`) and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}\0{remembered_sha256(path)}\n".encode())
    return digest.hexdigest()
