"""SHA-256 of files; a file that has not changed since it was last hashed is not read again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from luthier.files import sha256_of

_WORTH_REMEMBERING = 1 << 24


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file's content; that of a large file is remembered by its path, size and times."""
    stat = path.stat()
    if stat.st_size < _WORTH_REMEMBERING:
        return sha256_of(path)
    identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
    note = cache_directory() / "sha256" / hashlib.sha256(identity.encode()).hexdigest()
    try:
        known = note.read_text().strip()
        if len(known) == 64:
            return known
    except OSError:
        pass
    digest = sha256_of(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch = note.with_name(f"{note.name}.{os.getpid()}")
        scratch.write_text(digest)
        scratch.replace(note)
    except OSError:
        pass  # a cache that can't be written costs time, not correctness
    return digest


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
