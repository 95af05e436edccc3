"""Pieces of work whose results are kept: done once, continued where they were stopped, found again by their key.

A step lies in a folder of its own. Its key is a digest over everything that the result depends on. The folder of a
finished step has a marker with the key and every file; a step with `shared=True` is kept, sealed, in the user's cache,
where other runs find it.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from luthier.errors import WorkspaceError
from luthier.storage.done import CHECKPOINT, CHECKPOINTS, DONE, belongs, changed_file, read_done, sweep, write_done
from luthier.storage.files import reporting_failed_writes, write_json
from luthier.storage.folder_cache import FolderCache, bytes_of, mark_used
from luthier.storage.hashing import cache_directory
from luthier.storage.keys import digest_of
from luthier.storage.sealed_folder import check_seal, tell_of_damage, whole_folder

logger = logging.getLogger(__name__)
KEY, RESULT, REPLACED = "key.json", "metrics.json", "replaced"
# What shared steps of all runs may take together, in bytes.
SHARED_BYTES = 20 << 30


@dataclass(frozen=True)
class Step:
    """A finished step.

    Attributes:
        folder: with the files that it left; for a shared step in the user's cache, to be read only.
        key: of all that it depends on.
        result: what its work returned.
        cached: whether it was done before and not now.
    """

    folder: Path
    key: str
    result: dict[str, Any]
    cached: bool


@dataclass(frozen=True)
class Workspace:
    """A folder in which steps are done, one below another.

    Attributes:
        folder: the place of this step, or of a run; its own steps lie in folders below it.
        key: of this step; empty for a run.
        told: folders of many steps in which the first one was put aside and said so.
        taken: shared steps that this one has been given, and may read again: they make no room for each other.
    """

    folder: Path
    key: str = ""
    told: set[Path] = field(default_factory=set, repr=False, compare=False)
    taken: set[Path] = field(default_factory=set, repr=False, compare=False)

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any] | str,
        work: Callable[[Workspace], dict[str, Any]],
        *,
        shared: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> Step:
        """The finished step: found where it was done before, continued where it was stopped, else done now.

        Args:
            name: of its folder, with slashes where it lies deeper.
            inputs: everything that the result depends on, in JSON's types and settings; or the digest of that.
            work: does it, inside `workspace.folder`, and gives a result in JSON's types. What an earlier, stopped call
                with the same inputs left there, it may go on from; `checkpoints` below it go when the step is done.
            shared: whether it is kept in the user's cache, where it makes room for newer ones of other runs when it was
                not used for longest.
            notes: written beside the key. Where the work fails and leaves no checkpoint, a finished step of the same
                notes that stood there before comes back, so that an attempt that is refused costs nothing.

        Raises:
            WorkspaceError: the folder can't be written.
        """
        key, place = _key(inputs), self.folder / name
        if shared and (step := shared_step(key)) is not None:
            logger.info("%s is done already, in %s", name, step.folder)
            _forget(place)
            self.taken.add(step.folder)
            return step
        done = read_done(place)
        if done is not None and done["key"] == key:
            logger.info("%s is done already", place)
            sweep(place, finished=True)
            return Step(place, key, _read_json(place / RESULT), cached=True)
        aside = make_way(place, key, self.told if place.parent != self.folder else None)
        started = time.time()
        try:
            with reporting_failed_writes(place):
                place.mkdir(parents=True, exist_ok=True)
                sweep(place, finished=False)
                write_json(place / KEY, {"key": key, **(notes or {})})
                result = work(Workspace(place, key))
                write_json(place / RESULT, result)
        except BaseException:
            if aside is not None:
                _bring_back(aside, place, dict(notes or {}))
            raise
        if shared and _share(place, key, self.taken):
            _forget(place)
            self.taken.add(_shared_place(key))
            return Step(_shared_place(key), key, result, cached=False)
        with reporting_failed_writes(place):
            write_done(place, key, started)
            sweep(place, finished=True)
        return Step(place, key, result, cached=False)


def shared_step(inputs: Mapping[str, Any] | str) -> Step | None:
    """A shared step that was done before; None where there is none, or it is not whole."""
    key = _key(inputs)
    place = _shared_place(key)
    try:
        check_seal(place)
        result = _read_json(place / RESULT)
    except (OSError, ValueError) as error:
        tell_of_damage(place, error)
        return None
    mark_used(place)
    return Step(place, key, result, cached=True)


def key_in(place: Path) -> str | None:
    """The key that a step wrote in its folder when it began; None where there is none."""
    try:
        return str(_read_json(place / KEY)["key"])
    except (OSError, ValueError, KeyError):
        return None


def make_way(place: Path, key: str, told: set[Path] | None = None) -> Path | None:
    """Keep what can't be gone on with out of the way: a step of other inputs or code, or a changed one.

    Args:
        place: of the step.
        key: that it is to have.
        told: folders of which that was said once; the step's is added. None tells it of each step.

    Returns:
        Where it is now; None where nothing was moved.
    """
    if not place.exists():
        return None
    earlier = key_in(place) or "unknown"
    if earlier != key:
        reason, level = "it was made by other settings or another version", logging.WARNING
        if told is not None:
            level = logging.INFO if place.parent in told else level
            reason += ", as others beside it may be, of which nothing is said"
            told.add(place.parent)
        return _set_aside(place, f"{place.name}-{earlier[:8]}", reason, level)
    if (changed := changed_file(place)) is not None:
        state = "changed after it was finished" if changed.exists() else "is missing"
        reason = f"{changed.relative_to(place)} {state}, so it runs again"
        return _set_aside(place, f"{place.name}-{key[:8]}-changed", reason)
    (place / DONE).unlink(missing_ok=True)
    return None


def _bring_back(aside: Path, place: Path, notes: dict[str, Any]) -> None:
    """Put a finished step back where its successor failed, if both have the same notes and nothing could be gone on
    with."""
    if read_done(aside) is None or any(place.glob(f"**/{CHECKPOINTS}/**/{CHECKPOINT}*")):
        return
    with suppress(OSError, ValueError):
        if {k: v for k, v in _read_json(aside / KEY).items() if k != "key"} == notes:
            shutil.rmtree(place, ignore_errors=True)
            aside.rename(place)
            logger.warning("%s: what came in its place failed, so the earlier one is back", place)


def _set_aside(place: Path, name: str, reason: str, level: int = logging.WARNING) -> Path:
    # Of steps that never finished, the newest alone is kept: they could fill the disk.
    aside = first_free(place.parent / REPLACED, name, taken=lambda earlier: (earlier / DONE).exists())
    with reporting_failed_writes(aside):
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        place.rename(aside)
    logger.log(level, "%s: %s; what was there is now in %s", place, reason, aside)
    return aside


def first_free(folder: Path, name: str, suffix: str = "", *, taken: Callable[[Path], bool] = Path.exists) -> Path:
    """The first of `NAME`, `NAME-2`, `NAME-3`… that isn't taken yet in a folder."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(place for one in chain([name], numbered) if not taken(place := folder / f"{one}{suffix}"))


def _share(place: Path, key: str, beside: Collection[Path]) -> bool:
    """Copy a finished step into the user's cache; False where it is too large for it, beside others that stay there, or
    the cache can't be written: then it stays where it is."""
    cache = FolderCache(cache_directory() / "steps", SHARED_BYTES)
    if bytes_of(place) + sum(map(bytes_of, beside)) > cache.max_bytes:
        logger.warning("%s is too large for %s, so other runs will not find it", place, cache.directory)
        return False
    cache.make_room(bytes_of(place), keep=beside)
    try:
        with whole_folder(_shared_place(key)) as scratch:
            for path in sorted(place.rglob("*")):
                if path.is_file() and belongs(path.relative_to(place)):
                    copy = scratch / path.relative_to(place)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copy)
    except WorkspaceError as error:
        logger.warning("%s is kept there alone, so other runs will not find it: %s", place, error)
        return False
    return True


def _forget(place: Path) -> None:
    """Delete what is kept elsewhere once a shared step is done; its logs stay."""
    for path in place.iterdir() if place.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _shared_place(key: str) -> Path:
    return cache_directory() / "steps" / key[:32]


def _key(inputs: Mapping[str, Any] | str) -> str:
    return inputs if isinstance(inputs, str) else digest_of(inputs)


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping")
    return content
