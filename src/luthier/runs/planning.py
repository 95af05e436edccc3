"""The dry run of one recipe: what each stage would do, and what of it is done already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from luthier.recipe.recipe import RecipeBase
from luthier.runs.runner import chain, read_done, stage_key, with_secrets
from luthier.stages.base import StagePlan


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a dry run: where it goes, whether it is done, and what it would do."""

    cell: str
    folder: Path
    cached: bool
    plan: StagePlan | None
    problem: str | None = None


def plan_cell(recipe: RecipeBase, folder: Path, name: str) -> list[PlannedStage]:
    """Plan the stages of one recipe. The data are read and checked; no weights are loaded."""
    planned, previous, known = [], "", True
    for position, (stage, inputs) in enumerate(chain(recipe, folder)):
        place = folder / f"{position:02d}-{stage.name}"
        active = with_secrets(stage)
        key = stage_key(stage, active, inputs, previous)
        done = read_done(place)
        cached = known and done is not None and done["key"] == key
        known = known and cached
        first = position == 0
        if not cached:
            active.check(inputs)
        planned.append(PlannedStage(name, place, cached, active.plan(inputs) if first and not cached else None))
        previous = key
    return planned
