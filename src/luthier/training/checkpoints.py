"""Checkpoints that are either whole or not there.

A checkpoint is written into a hidden folder beside its place, every file is hashed into `manifest.json`, which
is written last, and the folder is renamed. Whoever continues a run takes the newest folder whose files still
have the hashes of its manifest.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from luthier.data.table import listing
from luthier.errors import DataError
from luthier.secrets import redact_values
from luthier.storage.done import CHECKPOINT, CHECKPOINTS
from luthier.storage.files import reporting_failed_writes, sha256_of, sync, write_json

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
LABELS = "labels.json"
TRAINER_STATE = "trainer_state.json"
# More steps than any run takes: those of a run that only its time limit ends.
UNBOUNDED = 10**9
_KEY_LENGTH = 16


@contextmanager
def writing(place: Path, *, beside: dict[str, str] | None = None) -> Iterator[Path]:
    """Yield a scratch folder that becomes `place` when the block ends without an error.

    Args:
        place: the checkpoint.
        beside: files next to `place` that belong to it: name -> SHA-256 in hex.

    Raises:
        WorkspaceError: the disk is full or can't be written; `place` is untouched.
    """
    scratch = place.with_name(f".writing-{place.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with reporting_failed_writes(place):
            scratch.mkdir(parents=True)
            yield scratch
            files = sorted(p for p in scratch.rglob("*") if p.is_file())
            hashes = {str(p.relative_to(scratch)): sha256_of(p) for p in files}
            for path in files:
                sync(path)
            manifest = scratch / MANIFEST
            manifest.write_text(json.dumps({"files": hashes, "beside": beside or {}}, indent=1), encoding="utf8")
            sync(manifest)
            if place.exists():
                shutil.rmtree(place)
            scratch.rename(place)
            sync(place.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def is_whole(place: Path) -> bool:
    """Whether every file of the manifest is there with the content that was written, those beside it included."""
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf8"))
        hashes = {place / name: digest for name, digest in manifest["files"].items()}
        hashes |= {place.parent / name: digest for name, digest in manifest["beside"].items()}
        return all(sha256_of(path) == digest for path, digest in hashes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def step_of(place: Path) -> int:
    return int(place.name.removeprefix(CHECKPOINT))


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint with the highest step that is whole; torn ones are named in the log and passed over."""
    places = [p for p in folder.glob(f"{CHECKPOINT}*") if p.name.removeprefix(CHECKPOINT).isdecimal()]
    for place in sorted(places, key=step_of, reverse=True):
        if is_whole(place):
            return place
        logger.warning("%s is damaged and is not used", place)
    return None


def of_key(place: Path, key: str) -> Path:
    """Where the checkpoints of a stage lie.

    Args:
        place: the stage's folder.
        key: of all that its results depend on.
    """
    return place / CHECKPOINTS / key[:_KEY_LENGTH]


def reached(folder: Path) -> tuple[int, int | None] | None:
    """The step that training would go on from, and the number of steps that it is to take, where time does not end it;
    None where it would begin."""
    newest = newest_whole(folder)
    if newest is None:
        return None
    state = json.loads((newest / TRAINER_STATE).read_text(encoding="utf8"))
    steps = state.get("max_steps")
    return step_of(newest), steps if isinstance(steps, int) and 0 < steps < UNBOUNDED else None


def remove_older(folder: Path, keep: Path) -> None:
    """Delete every checkpoint but `keep`, and what an interrupted write left behind."""
    for place in [*folder.glob(f"{CHECKPOINT}*"), *folder.glob(f".writing-{CHECKPOINT}*")]:
        if place != keep:
            shutil.rmtree(place, ignore_errors=True)


def keep_labels(folder: Path, labels: Sequence[str], *, fresh: bool) -> None:
    """Write down which label every output is for, or compare with what was written: the weights of a checkpoint are
    for the labels in the order of their training.

    Args:
        folder: of the checkpoints.
        labels: in the order of their ids; empty where outputs have no labels.
        fresh: whether training starts from its beginning, so that nothing is compared.

    Raises:
        DataError: the checkpoints were trained for other labels, or for the same in another order.
        WorkspaceError: the folder can't be written.
    """
    wanted = redact_values(list(labels))
    if fresh:
        write_json(folder / LABELS, wanted)
        return
    try:
        earlier = json.loads((folder / LABELS).read_text(encoding="utf8"))
    except (OSError, ValueError):
        earlier = None
    if earlier == wanted:
        return
    told = "can't be read" if earlier is None else f"are {_told(earlier)}, and those of the data {_told(wanted)}"
    raise DataError(
        f"the labels that the checkpoint was trained for {told}",
        where=str(folder),
        fix="start afresh with another --output or name, or give back the data that the run began with",
    )


def _told(labels: Sequence[str]) -> str:
    return listing(map(repr, labels)) or "none"
