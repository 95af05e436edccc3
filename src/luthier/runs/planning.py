"""The dry run of one recipe: what each stage would do, and what of it is done already."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from luthier.errors import Refusals
from luthier.models.settings import ModelSettings
from luthier.recipe.recipe import RecipeBase
from luthier.runs.runner import Visit, walk
from luthier.stages.artifacts import Artifact
from luthier.stages.base import StageInputs, StagePlan
from luthier.training.checkpoints import of_key, reached


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a dry run.

    Attributes:
        cell: of a comparison; else empty.
        folder: where it goes.
        cached: whether it is done.
        plan: what it would do; None where it is done, or can't run.
        problem: why it can't run.
        reached: the step that it goes on from, and the number of steps in all where that is known; None where it would
            begin.
    """

    cell: str
    folder: Path
    cached: bool
    plan: StagePlan | None
    problem: str | None = None
    reached: tuple[int, int | None] | None = None


def plan_cell(recipe: RecipeBase, folder: Path, name: str) -> list[PlannedStage]:
    """Plan the stages of one recipe. The data are read and checked; no weights are loaded.

    What a stage starts from may not be there yet: then it is planned with the model that this will be made from, which
    has the same architecture.
    """
    planned, refusals = [], Refusals()
    for visit in walk(recipe, folder):
        plan = None
        with refusals.next():
            plan = None if visit.cached else _plan(visit)
        begun = None if visit.cached else reached(of_key(visit.place, visit.key))
        planned.append(PlannedStage(name, visit.place, visit.cached, _left(plan, begun), reached=begun))
    refusals.raise_all()
    return planned


def _plan(visit: Visit) -> StagePlan:
    inputs, missing = _with_stand_ins(visit)
    # What is planned reads the rows of its stage by itself.
    visit.active.check(replace(inputs, waits=inputs.waits and bool(missing)))
    if missing:
        return StagePlan({"starts from": f"{', '.join(missing)}, of which nothing can be told before it is there"})
    plan = visit.active.plan(inputs)
    coming = [port for port, artifact in inputs.artifacts.items() if artifact.stands_in]
    if not coming:
        return plan
    made = ", ".join(_told(visit.inputs.artifacts[port]) for port in coming)
    base = ", ".join(str(inputs.artifacts[port].model.reference) for port in coming)
    return replace(plan, facts={"starts from": f"{made}, to be made; planned on {base}", **plan.facts})


def _left(plan: StagePlan | None, begun: tuple[int, int | None] | None) -> StagePlan | None:
    """The plan with the time that is left of it."""
    if plan is None or plan.seconds is None or begun is None:
        return plan
    step, steps = begun
    return plan if steps is None else replace(plan, seconds=plan.seconds * max(0, steps - step) / steps)


def _told(artifact: Artifact) -> str:
    return f"{artifact.folder.parent.name}/{artifact.folder.name}"


def _with_stand_ins(visit: Visit) -> tuple[StageInputs, list[str]]:
    """The inputs with the models that stand in for what is not there yet, and what nothing can stand in for."""
    artifacts, missing = dict(visit.inputs.artifacts), []
    for port, origin in visit.origins.items():
        artifact = artifacts[port]
        if artifact.folder.is_dir():
            continue
        if origin is None or isinstance(artifact.settings, Path):
            missing.append(_told(artifact))
            continue
        where = {name: getattr(origin, name) for name in ("reference", "revision", "gguf_file")}
        settings = ModelSettings.model_validate({**artifact.settings.model_dump(), **where})
        artifacts[port] = replace(artifact, settings=settings, stands_in=True)
    return replace(visit.inputs, artifacts=artifacts), missing
