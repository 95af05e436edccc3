"""The dry run: what each stage of a recipe would do, and what of it is done already."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.done import read_done
from luthier.errors import LuthierError
from luthier.grid import cell_name, cell_recipe, cells
from luthier.recipe import RecipeBase
from luthier.runner import chain, stage_key, with_secrets
from luthier.stages import StagePlan


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a dry run: where it goes, whether it is done, and what it would do."""

    cell: str
    folder: Path
    cached: bool
    plan: StagePlan | None
    problem: str | None = None


def plan_recipe(recipe: RecipeBase, output: Path) -> list[PlannedStage]:
    """Plan every stage of every cell. The data are read and checked; no weights are loaded.

    Raises:
        RecipeError, DataError, ModelError: what a run would raise before it trains, for the first cell.
    """
    folder = output / recipe.name
    if recipe.compare is None:
        return _plan_cell(recipe, folder, "")
    planned = []
    if recipe.compare.search is not None:
        first = {key: ends[0] for key, ends in recipe.compare.search.ends().items()}
        planned = _plan_cell(cell_recipe(recipe, first), folder / "cells" / cell_name(first), "a trial")
        return [_repeated(stage, recipe.compare.search.trials) for stage in planned]
    for number, factors in enumerate(cells(recipe.compare)):
        name = cell_name(factors)
        try:
            planned += _plan_cell(cell_recipe(recipe, factors), folder / "cells" / name, name)
        except LuthierError as error:
            if number == 0:
                raise
            planned.append(PlannedStage(name, folder / "cells" / name, False, None, str(error)))
    return planned


def _repeated(stage: PlannedStage, trials: int) -> PlannedStage:
    """A stage of one trial, planned for all of them."""
    if stage.plan is None:
        return stage
    facts = {"trials": f"up to {trials}, of which this is one", **stage.plan.facts}
    seconds = None if stage.plan.seconds is None else trials * stage.plan.seconds
    return replace(stage, plan=StagePlan(facts, seconds, stage.plan.memory_bytes))


def _plan_cell(recipe: RecipeBase, folder: Path, name: str) -> list[PlannedStage]:
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


def print_plan(planned: list[PlannedStage], console: Any) -> None:
    """Show a dry run, one stage after another, and the totals."""
    seconds, memory = 0.0, 0
    for stage in planned:
        state = "done already" if stage.cached else "to do"
        console.print(f"{stage.folder}  {state}", style="bold", soft_wrap=True)
        if stage.problem:
            console.print(f"  can't run: {stage.problem}", markup=False)
        if stage.plan is None:
            continue
        for label, value in stage.plan.facts.items():
            console.print(f"  {label:20} {value}", markup=False, soft_wrap=True)
        seconds += stage.plan.seconds or 0
        memory = max(memory, stage.plan.memory_bytes or 0)
    if seconds or memory:
        console.print(
            f"estimate: {duration(seconds)} of training, {memory / 1e9:.1f} GB of memory at the highest "
            "(rough: within a factor of about two)"
        )
    console.print("nothing was trained or written; `luthier run` does it")


def duration(seconds: float) -> str:
    """Seconds in the unit people would say."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
