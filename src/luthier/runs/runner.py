"""Runs a recipe's stages one after another in a run directory, and continues what was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luthier.errors import InterruptedRunError, LuthierError, RecipeError, Refusals, WorkspaceError
from luthier.models.settings import ModelSettings
from luthier.progress import tell
from luthier.recipe import RecipeBase, recipe_yaml
from luthier.recipe.yaml_text import dump_yaml
from luthier.runs.keys import made_from, stage_key
from luthier.secrets import expand
from luthier.stages.artifacts import KINDS, Artifact
from luthier.stages.base import MODEL, Stage, StageInputs, StageOutputs
from luthier.stages.chaining import ChainError, Link, chain, saved_data
from luthier.storage.done import DONE, read_done
from luthier.storage.files import strict_json, unwritable, write_bytes, write_json, write_text
from luthier.storage.paths import user_path
from luthier.storage.provenance import ENVIRONMENT, environment
from luthier.storage.ranks import world_size
from luthier.storage.steps import Workspace

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
        cause: the error itself, where it is one that is meant for the user.
        pruned: whether that was the search which the cell is a trial of.
        cells: of a grid, its cells.
    """

    folder: Path
    factors: dict[str, Any] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)
    error: str | None = None
    cause: LuthierError | None = None
    pruned: bool = False
    cells: list[RunRecord] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Stage folder name -> its metrics."""
        return {s.folder.name: s.metrics for s in self.stages}


@dataclass(frozen=True)
class Visit:
    """One stage on the way through a recipe.

    Attributes:
        position: in the recipe, from 0.
        stage: as the recipe has it.
        active: with every secret filled in.
        inputs: what it starts from.
        origins: port -> for an artefact of an earlier stage the model that it is made from in the end, or None.
        place: its folder.
        key: of all that its results depend on; empty on a walk without keys.
        cached: whether it is done already, with this key.
    """

    position: int
    stage: Stage
    active: Stage
    inputs: StageInputs
    origins: dict[str, ModelSettings | None]
    place: Path
    key: str
    cached: bool


def run_cell(recipe: RecipeBase, folder: Path, comparison: Path | None = None) -> RunRecord:
    """Run the stages of one recipe in one folder. A recipe that is refused doesn't replace that of finished results.

    Args:
        recipe: of a run, or of one cell of a comparison.
        folder: where its stages are done.
        comparison: the run directory that the cell is of; None for a run by itself.
    """
    place, text, record = folder / "recipe.yaml", recipe_yaml(recipe.filled_in()), RunRecord(folder)
    earlier = place.read_bytes() if any(folder.glob(f"*/{DONE}")) and place.is_file() else None
    if earlier is None:
        write_text(place, text, hidden=True)
    _check(recipe, folder)
    write_text(place, text, hidden=True)
    try:
        for visit in walk(recipe, folder):
            record.stages.append(_run_stage(visit, folder, comparison or folder))
    except BaseException:
        position = len(record.stages)
        stopped_at = stage_folder(folder, position, recipe.stage_list()[position])
        if earlier is not None and all(stage.cached for stage in record.stages) and read_done(stopped_at) is not None:
            write_bytes(place, earlier)
        raise
    (folder / FAILED).unlink(missing_ok=True)
    return record


def _check(recipe: RecipeBase, folder: Path) -> None:
    """Find what is wrong with the data of every stage that will run, before any does."""
    refusals, finished = Refusals(), False
    for visit in walk(recipe, folder, keyed=False):
        if read_done(visit.place) is None:
            _check_stage(visit, refusals)
        else:
            finished = True
    # Keys are taken where they may tell that something finished has become another thing.
    for visit in walk(recipe, folder) if finished else ():
        if not visit.cached and read_done(visit.place) is not None:
            _check_stage(visit, refusals)
    refusals.raise_all()


def _check_stage(visit: Visit, refusals: Refusals) -> None:
    with refusals.next():
        visit.active.check_processes(world_size())
        visit.active.check(visit.inputs)


def stage_folder(folder: Path, position: int, stage: Stage) -> Path:
    """The folder of a stage in a run directory."""
    return folder / f"{position:02d}-{stage.name}"


def walk(recipe: RecipeBase, folder: Path, *, keyed: bool = True) -> Iterator[Visit]:
    """The stages of a recipe in order, with what each starts from.

    A stage is looked at only when the one before has been dealt with, so that it finds what that one left.

    Args:
        folder: the run directory.
        keyed: whether keys are taken.
    """
    stages, model = recipe.stage_list(), recipe.model
    model = None if model is None else ModelSettings.model_validate(expand(model.model_dump()))
    actives: list[Stage] = [with_secrets(stage) for stage in stages]
    try:
        chained = chain(actives, model, read=True)
    except ChainError as error:  # a folder that a recipe names is another one than when the recipe was loaded
        raise RecipeError(str(error)) from None
    keys: list[str] = []
    data = None
    for position, links in enumerate(chained):
        stage, active, place = stages[position], actives[position], stage_folder(folder, position, stages[position])
        artifacts = {port: _artifact(link, folder, stages, keys) for port, link in links.items()}
        origins = {port: link.outside for port, link in links.items() if link.stage is not None}
        made_by = links[MODEL].stage if MODEL in links else None
        inputs = StageInputs(
            artifacts,
            recipe.seed,
            data or saved_data(active, links),
            waits=position > 0,
            trained_on=None if made_by is None else getattr(actives[made_by], "data", None),
        )
        keys.append(stage_key(stage, active, inputs) if keyed else "")
        done = read_done(place) if keyed else None
        cached = done is not None and done["key"] == keys[-1]
        yield Visit(position, stage, active, inputs, origins, place, keys[-1], cached)
        data = getattr(active, "data", None) or data


def _artifact(link: Link, folder: Path, stages: list[Stage], keys: list[str]) -> Artifact:
    if link.stage is None:
        assert link.outside is not None
        if KINDS[link.kind].is_model:
            return Artifact(link.kind, link.outside)
        return Artifact(link.kind, user_path(link.outside.reference))
    place = (stage_folder(folder, link.stage, stages[link.stage]) / link.name).resolve()
    key = f"{keys[link.stage]} {link.name}"
    if not KINDS[link.kind].is_model:
        return Artifact(link.kind, place, key)
    loaded_as = {} if link.outside is None else link.outside.model_dump(exclude={"reference", "revision", "gguf_file"})
    return Artifact(link.kind, ModelSettings(reference=str(place), **{**loaded_as, **link.changes}), key)


def with_secrets(stage: Stage) -> Stage:
    """The stage with every `${env:NAME}` filled in.

    Raises:
        RecipeError: a variable is not set, or a setting does not take what it holds.
    """
    filled = expand(stage.model_dump(exclude_unset=True))
    try:
        return type(stage).model_validate(filled)
    except ValidationError as error:
        told = error.errors(include_input=False, include_url=False)[0]
        # What the error holds beside its text may be a secret.
        raise RecipeError(
            f"what variables of the environment fill in does not fit: {told['msg'].removeprefix('Value error, ')}",
            where=".".join(map(str, told["loc"])) or None,
            fix="set the variables to what the setting takes",
        ) from None


def _run_stage(visit: Visit, folder: Path, run: Path) -> StageRecord:
    stage, gives = visit.stage, visit.stage.gives()

    def work(workspace: Workspace) -> dict[str, Any]:
        settings = {stage.name: stage.filled_in().model_dump(mode="json"), "seed": visit.inputs.seed}
        write_text(workspace.folder / "stage.yaml", dump_yaml(settings), hidden=True)
        inputs = replace(visit.inputs, key=workspace.key, workspace=workspace)
        outputs = visit.active.run(inputs, workspace.folder)
        _check_given(stage, outputs, workspace.folder)
        # Of what made results, and not of a later command that is refused or finds everything done.
        write_json(run / ENVIRONMENT, environment())
        return strict_json(outputs.metrics)

    notes = {"made_from": made_from(visit.inputs), **({"gives": gives} if gives else {})}
    step = Workspace(folder).step(visit.place.name, visit.key, work, notes=notes)
    if step.cached:
        tell(f"{folder.name}/{visit.place.name}: done already")
    return StageRecord(stage.name, visit.place, step.result, cached=step.cached)


def _check_given(stage: Stage, outputs: StageOutputs, place: Path) -> None:
    """Raises TypeError where a stage left other artefacts than it says, or elsewhere: what follows would miss them."""
    expected = {name: (place / name).resolve() for name in stage.gives()}
    left = {name: Path(path).resolve() for name, path in outputs.artifacts.items()}
    if left != expected:
        raise TypeError(f"the stage {stage.name} says that it gives {expected}, and gave {left}")


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
        raise unwritable(folder, error, "folder with --output") from error
    try:
        yield
    finally:
        lock.release()
