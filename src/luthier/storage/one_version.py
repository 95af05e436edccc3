"""One version of every input: what a run reads is what it was when the run first looked at it.

A run's results are filed under digests that are taken before anything is read. So each reading is followed by a second
look, and a file that was changed in between ends the run in place of results under a name that is not theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from luthier.errors import LuthierError, WorkspaceError
from luthier.storage.files import sha256_of

_seen: ContextVar[dict[str, str] | None] = ContextVar("seen", default=None)
_read: ContextVar[dict[str, Any] | None] = ContextVar("read", default=None)
_T = TypeVar("_T")


@contextmanager
def one_version(seen: Mapping[str, str] | None = None) -> Iterator[None]:
    """Within the block every input counts as what it was at first sight. A block inside another one is part of it.

    Args:
        seen: what another process of the same run saw already (`versions_seen`).
    """
    if _seen.get() is not None:
        yield
        return
    token, read = _seen.set(dict(seen or {})), _read.set({})
    try:
        yield
    finally:
        _read.reset(read)
        _seen.reset(token)


def versions_seen() -> dict[str, str]:
    """Digests of the inputs that the surrounding block has looked at, by name; none outside of any block."""
    return dict(_seen.get() or {})


def first_sight(name: str, digest: Callable[[], str]) -> str:
    """Digest of an input when this block first looked at it; outside of any block, of what it is now."""
    seen = _seen.get()
    if seen is None:
        return digest()
    if name not in seen:
        seen[name] = digest()
    return seen[name]


def read_once(name: str, read: Callable[[], _T], *, keep: Callable[[_T], bool] = lambda _: True) -> _T:
    """What an input reads as, of which this block makes a copy for everyone who asks again; outside of any block, what
    it reads as now.

    Args:
        name: of the input, and of whatever else decides what is read of it.
        read: reads it.
        keep: whether what was read is small enough to stay in memory until the block ends.
    """
    known = _read.get()
    if known is None:
        return read()
    if name not in known:
        found = read()
        if not keep(found):
            return found
        known[name] = found
    kept: _T = copy.deepcopy(known[name])
    return kept


def check_unchanged(name: str, digest: Callable[[], str], where: str) -> None:
    """To be called when an input was read; outside of any block there is nothing to compare it with.

    Args:
        name: of the input, as for `first_sight`.
        digest: of what it is now.
        where: what messages call it.

    Raises:
        WorkspaceError: it is no longer what it was at first sight.
    """
    seen = _seen.get()
    if seen is None:
        return
    try:
        now = digest()
    except (OSError, LuthierError):
        if name not in seen:
            return
        now = "not readable"
    if seen.setdefault(name, now) != now:
        raise WorkspaceError(
            "changed while it was in use, so that results would be of another version than they are filed under",
            where=where,
            fix="let nothing write to it, and run the same command again: what was made of the old version is made "
            "anew; or put the old version back, and what is done is kept",
        )


def file_fingerprint(path: Path) -> str:
    """Hex SHA-256 of a file's content; in a block, as it was at first sight."""
    return first_sight(f"file {path.resolve()}", partial(sha256_of, path))


def check_file_unchanged(path: Path) -> None:
    """To be called when a file was read. See `check_unchanged`."""
    check_unchanged(f"file {path.resolve()}", partial(sha256_of, path), str(path))
