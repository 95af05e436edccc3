"""The marker of a finished stage: which files it left, and whether they are still as they were then."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from luthier.storage.files import write_json
from luthier.storage.hashing import remembered_sha256

DONE, CHECKPOINTS = "done.json", "checkpoints"
# What the name of a checkpoint begins with; its step follows.
CHECKPOINT = "checkpoint-"
# What every run directory holds; a recipe alone may lie anywhere.
OF_A_RUN = ("recipe.yaml", "environment.json")
# Names that files and folders carry while they are written. One that is still there was left by a kill.
_UNFINISHED = re.compile(r"\.writing-.*|\.model\..*|\.[\w-]+\.(old\.)?[a-z0-9_]{8}")
# Files below this size, in bytes, are read each time; of a larger one, its time of change says whether to.
_SMALL = 1 << 20


def write_done(place: Path, key: str, started: float) -> None:
    """Mark a stage as finished, with the size, time of change and SHA-256 of every file that belongs to it.

    Args:
        place: the stage's folder.
        key: what the stage was made from.
        started: when, in Unix seconds.

    Raises:
        WorkspaceError: the marker can't be written.
    """
    digests = {path: known for artifact in place.iterdir() for path, known in _digests_in_manifest(artifact).items()}
    files = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and belongs(path.relative_to(place)):
            stat, name = path.stat(), path.relative_to(place).as_posix()
            sha256 = digests.get(path) or remembered_sha256(path)
            files[name] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
    write_json(place / DONE, {"key": key, "started": started, "finished": time.time(), "files": files})


def read_done(place: Path) -> dict[str, Any] | None:
    """The marker of a finished stage, if it is there and every file is as it was then."""
    done = _marker(place)
    return done if done is not None and _first_changed(place, done) is None else None


def changed_file(place: Path) -> Path | None:
    """A file of a finished stage that is missing or no longer as it was; None where there is none, or no marker."""
    done = _marker(place)
    return None if done is None else _first_changed(place, done)


def sweep(place: Path, *, finished: bool) -> None:
    """Delete what a kill left half written in a stage's folder, and the checkpoints of a finished stage."""
    for path in list(place.rglob("*")):
        if _UNFINISHED.fullmatch(path.name) or (finished and path.name == CHECKPOINTS):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def belongs(relative: Path) -> bool:
    """Whether a file below a stage's folder is the stage's own, and no checkpoint, scratch file or marker."""
    return relative.name != DONE and not any(p == CHECKPOINTS or _UNFINISHED.fullmatch(p) for p in relative.parts)


def is_of_a_run(path: Path) -> bool:
    """Whether a place belongs to what a run finished: its saved recipe, a file of a stage or a folder of them, or
    anything in the folder of a saved model, which holds what its manifest lists and nothing else."""
    real = Path(os.path.realpath(path))
    if real.name in OF_A_RUN and all((real.parent / name).exists() for name in OF_A_RUN):
        return True
    for folder in real.parents:
        if _digests_in_manifest(folder):
            return True
        name, done = real.relative_to(folder).as_posix(), _marker(folder)
        if done and (name == DONE or any(one == name or one.startswith(f"{name}/") for one in done["files"])):
            return True
    return False


def _marker(place: Path) -> dict[str, Any] | None:
    try:
        done = json.loads((place / DONE).read_text(encoding="utf8"))
        known = isinstance(done["key"], str) and all(_is_record(one) for one in done["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return done if known else None


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and record.keys() >= {"size", "mtime_ns", "sha256"}


def _first_changed(place: Path, done: dict[str, Any]) -> Path | None:
    return next((place / name for name, record in done["files"].items() if not _is_same(place / name, record)), None)


def _is_same(path: Path, record: dict[str, Any]) -> bool:
    try:
        stat = path.stat()
        if stat.st_size != record["size"]:
            return False
        if stat.st_size >= _SMALL and stat.st_mtime_ns == record["mtime_ns"]:
            return True
        return remembered_sha256(path) == record["sha256"]
    except OSError:
        return False


def _digests_in_manifest(artifact: Path) -> dict[Path, str]:
    """The hashes that were written with a saved model, which need not be made a second time."""
    try:
        digests = json.loads((artifact / "manifest.json").read_text(encoding="utf8"))["sha256"]
        return {artifact / name: digest for name, digest in digests.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
