"""The dry run of a comparison: every cell of a grid, or one trial of a search for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from luthier.errors import LuthierError
from luthier.recipe.comparison import CompareSettings
from luthier.recipe.grid import cell_name, cell_recipe, cells
from luthier.recipe.recipe import RecipeBase
from luthier.runs.kinds import check_kind
from luthier.runs.planning import PlannedStage, plan_cell
from luthier.stages.base import StagePlan
from luthier.storage.one_version import one_version


def plan_recipe(recipe: RecipeBase, output: Path) -> list[PlannedStage]:
    """Plan every stage of every cell. The data are read and checked; no weights are loaded.

    Raises:
        RecipeError, DataError, ModelError: what a run would raise before it trains, for the first cell.
        WorkspaceError: the folder holds a run and the recipe asks for a comparison, or the reverse.
    """
    folder = output / recipe.name
    check_kind(folder, recipe)
    with one_version():
        return plan_cell(recipe, folder, "") if recipe.compare is None else _plan_cells(recipe, recipe.compare, folder)


def _plan_cells(recipe: RecipeBase, comparison: CompareSettings, folder: Path) -> list[PlannedStage]:
    planned = []
    if comparison.search is not None:
        first = {key: ends[0] for key, ends in comparison.search.ends().items()}
        planned = plan_cell(cell_recipe(recipe, first), folder / "cells" / cell_name(first), "a trial")
        return [_repeated(stage, comparison.search.trials) for stage in planned]
    for number, factors in enumerate(cells(comparison)):
        name = cell_name(factors)
        try:
            planned += plan_cell(cell_recipe(recipe, factors), folder / "cells" / name, name)
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
