"""Files and folders that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from luthier.errors import LuthierError, WorkspaceError
from luthier.secrets import redact, redact_values

# What only a write is refused with: no space, no quota, too large a file, a read-only mount.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What a read may be refused with, too: no permission, a failing disk, too many open files, a stale network file.
_OPENING = (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)
# Endings of what is read compressed, and written by nothing here.
_COMPRESSED = (".gz", ".zst")
# Seconds after which a file that is being written is one that a kill left.
_LEFT_BEHIND = 3600
_MORE_SPACE = "free some space, or choose another {place}{again}"
_NOT_ALLOWED = "choose a {place} that you may write to, or have its permissions changed"
_IN_THE_WAY = "choose another {place}, or move away what stands in its way"
_FIXES = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EFBIG: "raise the limit on a file's size (`ulimit -f`), or choose a {place} on another disk{again}",
    errno.EROFS: "choose a {place} on a disk that can be written to; this one is read-only",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENOTEMPTY: _IN_THE_WAY,
    errno.ENAMETOOLONG: "choose a {place} with a shorter name",
    errno.EIO: "look after the disk, or choose a {place} on another one{again}",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`){again}",
}
_RUST_ERROR = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)")
_TORCH_WRITER = ("PytorchStreamWriter failed", "inline_container.cc", "iostream error")


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


def write_text(path: Path, text: str, *, hidden: bool = False) -> None:
    """Write a text file in one step, with every secret blotted out.

    Args:
        path: of the file.
        text: all of it.
        hidden: whether they are already, as in what `json_text` and `dump_yaml` give, whose numbers stay as they are.

    Raises:
        WorkspaceError: the place can't be written or the disk is full; what was there is untouched.
    """
    write_bytes(path, (text if hidden else redact(text)).encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file in one step. A link stays one: what it leads to is written. Of several processes that write the same
    file at the same time, one has the last word, and the file is whole.

    Args:
        path: of the file.
        content: all of it, or one piece after another.

    Raises:
        WorkspaceError: the place can't be written, is called as a compressed file is, or the disk is full; what was
            there is untouched.
    """
    refuse_compressed(path)
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    scratch = None
    try:
        with reporting_failed_writes(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch, file = _open_scratch(path)
            with file:
                file.writelines([content] if isinstance(content, bytes) else content)
            sync(scratch)
            scratch.replace(path)
    except BaseException:
        if scratch is not None:
            with suppress(OSError):
                scratch.unlink()
        raise


def refuse_compressed(path: Path) -> None:
    """Raises:
    WorkspaceError: a file to write is called as a compressed one is.
    """
    if path.suffix.lower() in _COMPRESSED:
        raise WorkspaceError(
            f"files are written uncompressed, and one that ends in {path.suffix} is read as a compressed one",
            where=str(path),
            fix=f"name the file {path.stem}, and compress it afterwards",
        )


def _open_scratch(path: Path) -> tuple[Path, IO[bytes]]:
    """A new file that nobody else writes to: where another process does already, one with a name of its own."""
    scratch = scratch_of(path)
    with suppress(OSError):
        if time.time() - scratch.stat().st_mtime > _LEFT_BEHIND:
            scratch.unlink()
    try:
        return scratch, scratch.open("xb")
    except FileExistsError:
        scratch = path.with_name(f".writing-{secrets.token_hex(8)}")
        return scratch, scratch.open("xb")


def scratch_of(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(f".writing-{path.name}")


def write_json(path: Path, data: Any) -> None:
    """Write JSON in one step, with every secret in its texts blotted out. See `write_bytes`."""
    write_bytes(path, json_text(data).encode(errors="backslashreplace"))


def json_text(data: Any, **options: Any) -> str:
    """Plain data as JSON and a line break, with every secret in its texts blotted out before they are escaped.

    Args:
        options: of `json.dumps`, in place of one blank of indentation and letters as they are.
    """
    options = {"indent": 1, "ensure_ascii": False} | options
    return json.dumps(redact_values(data), default=json_value, **options) + "\n"


def strict_json(data: Any) -> Any:
    """Data in JSON's own types, with null for NaN and infinity, which JSON has no words for: other readers refuse those
    that Python's writes."""
    return json.loads(json_text(data, indent=None), parse_constant=lambda _: None)


def json_value(value: Any) -> Any:
    """A number of numpy or torch as a number, and anything else that JSON has no type for as text."""
    if getattr(value, "ndim", None) == 0:
        return value.item()
    return value if isinstance(value, int | float) else redact(str(value))


@contextmanager
def reporting_failed_writes(place: Path) -> Iterator[None]:
    """A block that writes under `place`: whatever its libraries raise when that fails becomes a WorkspaceError.

    Raises:
        WorkspaceError: the place can't be written or the disk is full.
    """
    try:
        yield
    except Exception as error:
        failure = error if isinstance(error, OSError) else disk_failure(error)
        if failure is None:
            raise
        raise unwritable(place, failure) from error


def disk_failure(error: BaseException) -> OSError | None:
    """The disk's refusal behind an error of any library, or None where the disk refused nothing.

    torch turns it into a RuntimeError, safetensors and tokenizers into exceptions of their own that quote its number.
    """
    if isinstance(error, LuthierError):
        return None
    if isinstance(error, OSError):
        return error if error.errno in _DISK or _is_short_write(error) else None
    if quoted := _RUST_ERROR.search(str(error)):
        number = int(quoted[1] or quoted[2])
        return OSError(number, os.strerror(number)) if number in _DISK else None
    if isinstance(error, RuntimeError) and any(part in str(error) for part in _TORCH_WRITER):
        behind = error.__context__
        known = behind if isinstance(behind, OSError) else None
        return known or OSError("a file could not be written to its end; the disk may be full")
    return None


def refusal(error: BaseException, place: Path | None = None) -> WorkspaceError | None:
    """What a user is told of an error of any library where the disk refused a write or the system a file, and None
    where neither did.

    Args:
        error: as it was raised.
        place: what was written to, in place of what the error names.
    """
    if (failure := disk_failure(error)) is not None:
        return unwritable(place or Path(failure.filename or "."), failure)
    if not isinstance(error, OSError) or error.errno not in _OPENING or error.filename is None:
        return None
    denied = error.errno in (errno.EACCES, errno.EPERM)
    return WorkspaceError(
        f"can't be opened: {error.strerror}",
        where=os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename),
        fix="have its permissions changed, or name another file" if denied else fix_of(error, "file"),
    )


def _is_short_write(error: OSError) -> bool:
    """numpy tells of a file that it could not write to its end in words, without a number."""
    return error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error)) is not None


def reserve_space(path: Path) -> None:
    """Take the disk space of a file that was made with its size but without content.

    Writing such a file through a memory map kills the process where the disk is full.

    Raises:
        OSError: there is too little space.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def unwritable(path: Path, error: OSError, chosen: str = "folder") -> WorkspaceError:
    """The error for a place that can't be written; `chosen` is what the user can choose anew."""
    reason = error.strerror or error
    if _is_short_write(error):
        reason = f"only part of an array fitted ({error}); the disk may be full"
    return WorkspaceError(
        f"can't write here: {reason}",
        where=str(path),
        fix=fix_of(error, chosen, again="; then run the same command again"),
    )


def fix_of(error: OSError, place: str = "folder", again: str = "") -> str:
    """What the user can do about a write that was refused, by what it was refused with.

    Args:
        error: the refusal.
        place: what can be chosen anew: a folder, a file, the folder of a setting.
        again: what else there is to do, where the same command may do.
    """
    number = errno.ENOSPC if error.errno is None else error.errno
    return _FIXES.get(number, "choose another {place}").format(place=place, again=again)
