"""Folders of stored results that are whole or not there, and whose every byte is checked before it is used.

A seal lies in the folder: the digest of each file, under the folder's own name. Comparing 100 MB takes about 12 ms.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.storage.files import unwritable

logger = logging.getLogger(__name__)
SEAL = "seal.txt"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder that is sealed and takes the place of `folder` when the block ends, and goes away when it fails.

    Where another process has put a whole folder there in the meantime, that one stays.

    Raises:
        WorkspaceError: the place can't be written.
    """
    from filelock import FileLock

    scratch = folder.with_name(f".writing-{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        (scratch / SEAL).write_text(_seal(scratch, folder.name), encoding="utf8")
        with FileLock(folder.parent / ".lock"):
            if not is_whole(folder):
                _remove(folder)
                scratch.replace(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_seal(folder: Path) -> None:
    """Compare every file of a folder with its seal.

    Raises:
        ValueError: a file is missing, added or not as it was written.
        OSError: the folder can't be read.
    """
    if (folder / SEAL).read_bytes() != _seal(folder, folder.name).encode():
        raise ValueError("its files are not as they were written")


def is_whole(folder: Path) -> bool:
    """Whether the folder is there with every byte as it was written."""
    try:
        check_seal(folder)
    except (OSError, ValueError):
        return False
    return True


def tell_of_damage(folder: Path, error: Exception) -> None:
    """Say that what is stored in a folder is not used, where there is such a folder."""
    if folder.exists():
        logger.warning("what is stored in %s is damaged and is computed again: %s", folder, error)


def _seal(folder: Path, name: str) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    return f"{name}\n" + "".join(lines)


def _digest(path: Path) -> str:
    import xxhash

    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def _remove(folder: Path) -> None:
    if folder.exists():
        aside = folder.with_name(f".removing-{folder.name}-{secrets.token_hex(4)}")
        folder.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)
