"""Runs a recipe's stages one after another in a run directory, and continues what was stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luthier.errors import InterruptedRunError, WorkspaceError
from luthier.models.settings import ModelSettings
from luthier.recipe import RecipeBase, recipe_yaml
from luthier.recipe.yaml_text import dump_yaml
from luthier.secrets import expand, redact
from luthier.stages.base import Kind, Stage, StageInputs
from luthier.storage.done import DONE, changed_file, read_done, sweep, write_done
from luthier.storage.files import reporting_failed_writes, unwritable, write_json, write_text
from luthier.storage.provenance import code_digest

logger = logging.getLogger(__name__)
FAILED = "failed.json"
# Errors after which the same command goes on: they say nothing about the recipe.
GOES_ON = (WorkspaceError.exit_code, InterruptedRunError.exit_code)


@dataclass
class StageRecord:
    """One stage of a run.

    Attributes:
        name: of the stage.
        folder: its place in the run directory.
        metrics: content of its metrics.json.
        cached: whether it had been done before and was not run again.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]
    cached: bool


@dataclass
class RunRecord:
    """A finished run, or one cell of a grid.

    Attributes:
        folder: the run directory.
        factors: what sets this cell apart; empty for a run that is no grid.
        stages: in order; of a failed cell only those that finished.
        error: what stopped the cell, or None.
        pruned: whether that was the search which the cell is a trial of.
        cells: of a grid, its cells.
    """

    folder: Path
    factors: dict[str, Any] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)
    error: str | None = None
    pruned: bool = False
    cells: list[RunRecord] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Stage folder name -> its metrics."""
        return {s.folder.name: s.metrics for s in self.stages}


def run_cell(recipe: RecipeBase, folder: Path) -> RunRecord:
    """Run the stages of one recipe in one folder."""
    write_text(folder / "recipe.yaml", recipe_yaml(recipe))
    record, previous = RunRecord(folder), ""
    for position, (stage, inputs) in enumerate(chain(recipe, folder)):
        if read_done(folder / f"{position:02d}-{stage.name}") is None:
            with_secrets(stage).check(inputs)
    for position, (stage, inputs) in enumerate(chain(recipe, folder)):
        place = folder / f"{position:02d}-{stage.name}"
        active = with_secrets(stage)
        key = stage_key(stage, active, inputs, previous)
        done = read_done(place)
        if done is not None and done["key"] == key:
            logger.info("%s is done already", place)
            sweep(place, finished=True)
            record.stages.append(StageRecord(stage.name, place, _read_json(place / "metrics.json"), cached=True))
        else:
            _make_way(place, key)
            record.stages.append(_run_stage(stage, active, inputs, place, key))
        previous = key
    (folder / FAILED).unlink(missing_ok=True)
    return record


def chain(recipe: RecipeBase, folder: Path) -> Iterator[tuple[Stage, StageInputs]]:
    """The stages with what each starts from. A stage's inputs are asked for only after the stage before has run."""
    model, kind, data = ModelSettings.model_validate(expand(recipe.model.model_dump())), "pretrained", None
    for position, stage in enumerate(recipe.stage_list()):
        yield stage, StageInputs(model, _kind(kind), recipe.seed, data)
        data = getattr(with_secrets(stage), "data", None) or data
        if stage.gives is not None:
            model = model.model_copy(
                update={"reference": str((folder / f"{position:02d}-{stage.name}" / "model").resolve())}
            )
            kind = stage.gives


def _kind(kind: str) -> Kind:
    return kind  # type: ignore[return-value]


def with_secrets(stage: Stage) -> Stage:
    """The stage with every `${env:NAME}` filled in."""
    return type(stage).model_validate(expand(stage.model_dump()))


def stage_key(stage: Stage, active: Stage, inputs: StageInputs, previous: str) -> str:
    """Hash of a stage's settings, its inputs, the seed and the code: equal keys mean equal results."""
    from luthier.models.references import fingerprint, resolve

    content = {
        "stage": stage.name,
        "settings": stage.model_dump(mode="json"),
        "model": previous or fingerprint(resolve(inputs.model)),
        "model_settings": inputs.model.model_dump(mode="json", exclude={"reference"}),
        "external": active.external_inputs(inputs),
        "seed": inputs.seed,
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _run_stage(stage: Stage, active: Stage, inputs: StageInputs, place: Path, key: str) -> StageRecord:
    started = time.time()
    with reporting_failed_writes(place):
        place.mkdir(parents=True, exist_ok=True)
        sweep(place, finished=False)
        write_json(place / "key.json", {"key": key})
        write_text(place / "stage.yaml", dump_yaml({stage.name: stage.model_dump(mode="json"), "seed": inputs.seed}))
        outputs = active.run(replace(inputs, key=key), place)
        write_json(place / "metrics.json", outputs.metrics)
        write_done(place, key, started)
        sweep(place, finished=True)
    metrics = json.loads(redact(json.dumps(outputs.metrics)))
    return StageRecord(stage.name, place, metrics, cached=False)


def _make_way(place: Path, key: str) -> None:
    """Keep what can't be gone on with out of the way: a stage of another recipe, seed or version, or a changed one."""
    if not place.exists():
        return
    try:
        earlier = _read_json(place / "key.json")["key"]
    except (OSError, ValueError, KeyError, TypeError):
        earlier = "unknown"
    if earlier != key:
        _set_aside(place, f"{place.name}-{earlier[:8]}", "it was made by other settings or another version")
    elif (changed := changed_file(place)) is not None:
        state = "changed after it was finished" if changed.exists() else "is missing"
        _set_aside(place, f"{place.name}-{key[:8]}-changed", f"{changed.relative_to(place)} {state}, so it runs again")
    else:
        (place / DONE).unlink(missing_ok=True)


def _set_aside(place: Path, name: str, reason: str) -> None:
    aside = place.parent / "replaced" / name
    with reporting_failed_writes(aside):
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        place.rename(aside)
    logger.warning("%s: %s; what was there is now in %s", place, reason, aside)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run directory, so that no second process writes into it.

    Raises:
        WorkspaceError: another process holds it, or it can't be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise WorkspaceError(
            "another run is writing into this directory",
            where=str(folder),
            fix="wait for it to end, or choose another name or --output",
        ) from None
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _read_json(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no mapping")
    return data
