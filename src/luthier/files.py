"""Files and folders that are either whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from luthier.errors import WorkspaceError
from luthier.secrets import redact


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file or folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step, with every secret blotted out.

    Raises:
        WorkspaceError: the place can't be written or the disk is full; what was there is untouched.
    """
    write_bytes(path, redact(text).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step.

    Raises:
        WorkspaceError: the place can't be written or the disk is full; what was there is untouched.
    """
    scratch = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        sync(scratch)
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise unwritable(path, error) from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON in one step. See `write_text`."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")


def unwritable(path: Path, error: OSError) -> WorkspaceError:
    """The error for a place that can't be written."""
    return WorkspaceError(
        f"can't write here: {error.strerror or error}",
        where=str(path),
        fix="free some space, or choose another folder with --output; then run the same command again",
    )
