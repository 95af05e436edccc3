"""Runs the cells of a comparison one after another, each as a run of its own, and writes down what was chosen."""

from __future__ import annotations

import logging
import math
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.compare.repeated import said_once
from luthier.errors import LuthierError, RecipeError
from luthier.recipe import RecipeBase, recipe_yaml
from luthier.recipe.grid import GIVE_VALIDATION, NOTHING_TO_CHOOSE_BY, cell_name, cell_recipe, cells, run_count
from luthier.report.choice import recommend, validation_score_of
from luthier.runs.runner import FAILED, GOES_ON, RunRecord, run_cell
from luthier.storage.files import refusal, write_json, write_text
from luthier.training.watch import EndedEarlyError

if TYPE_CHECKING:
    from luthier.compare.search import Search

logger = logging.getLogger(__name__)
CHOSEN, TRACEBACK = "best.yaml", "traceback.txt"


def run_comparison(
    recipe: RecipeBase, folder: Path, on_cell: Callable[[int, int, dict[str, Any]], None] | None = None
) -> RunRecord:
    """Run a recipe's grid, preset or search; what was chosen is written to `best.yaml`. See `luthier.run`."""
    assert recipe.compare is not None
    record = RunRecord(folder)
    (folder / CHOSEN).unlink(missing_ok=True)  # that of an earlier one, until this one is done
    count = run_count(recipe.compare)
    made = _searched(recipe, folder) if recipe.compare.search else _gridded(recipe, folder)
    with said_once() as heard:
        for number, (factors, cell) in enumerate(made):
            if on_cell:
                on_cell(number, count, factors)
            heard.begin(folder / "cells" / cell_name(factors))
            finished = cell()
            finished.factors = factors
            if all(finished.folder != earlier.folder for earlier in record.cells):
                record.cells.append(finished)
            if recipe.compare.chooses and finished.error is None:
                _check_it_can_choose(finished)
        heard.tell(len(record.cells))
    if record.cells and all(cell.error for cell in record.cells):
        raise _all_failed(record, "trial of the search" if recipe.compare.search else "cell of the grid")
    if recipe.compare.chooses:
        _write_choice(recipe, folder)
    return record


def _all_failed(record: RunRecord, cell: str) -> LuthierError:
    """What to raise where nothing is left to compare, with the exit code of the first cell's error."""
    first = record.cells[0]
    error = LuthierError(f"every {cell} failed; the first one said:\n{first.error}", where=str(record.folder))
    error.exit_code = error.exit_code if first.cause is None else first.cause.exit_code
    return error


def _gridded(recipe: RecipeBase, folder: Path) -> Iterator[tuple[dict[str, Any], Callable[[], RunRecord]]]:
    """The factors of every cell of a grid, and how to run it."""
    assert recipe.compare is not None
    for factors in cells(recipe.compare):
        yield factors, partial(_run_one, recipe, factors, folder)


def _searched(recipe: RecipeBase, folder: Path) -> Iterator[tuple[dict[str, Any], Callable[[], RunRecord]]]:
    """The factors of every trial of a search, and how to run it."""
    from luthier.compare.search import Search

    search = Search(recipe, folder)
    for number in range(search.settings.trials):
        factors = search.ask(number)
        yield factors, partial(_run_trial, recipe, factors, folder, search)


def _run_trial(recipe: RecipeBase, factors: dict[str, Any], folder: Path, search: Search) -> RunRecord:
    place, earlier = folder / "cells" / cell_name(factors), search.ended.get(cell_name(factors))
    if earlier is not None:  # what was tried before ends as it did then
        cell = earlier
    else:
        cell = _run_one(recipe, factors, folder, search.following)
    search.ended[place.name] = cell
    found = validation_score_of([stage.metrics for stage in cell.stages]) if cell.error is None else None
    score = found if found is not None and math.isfinite(found[1]) else None
    search.finish(place, score, pruned=cell.pruned)
    return cell


def _run_one(
    recipe: RecipeBase,
    factors: dict[str, Any],
    folder: Path,
    around: Callable[[RecipeBase, Path], AbstractContextManager[None]] = lambda *_: nullcontext(),
) -> RunRecord:
    """Run one cell. What stops it is recorded, and says nothing about the others."""
    place = folder / "cells" / cell_name(factors)
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "cell.json", {"factors": factors})
    for earlier in (FAILED, TRACEBACK):
        (place / earlier).unlink(missing_ok=True)
    try:
        made = cell_recipe(recipe, factors)
    except RecipeError as error:
        return _failed(place, {"error": error.what.partition("\n")[2] or error.what}, error)
    cause: LuthierError | None = None
    try:
        with around(made, place):
            return run_cell(made, place, folder)
    except EndedEarlyError as error:
        for left in place.glob("*/checkpoints"):
            shutil.rmtree(left, ignore_errors=True)
        failure: dict[str, Any] = {"error": str(error), "pruned": True}
    except LuthierError as error:
        if error.exit_code in GOES_ON:
            raise
        failure, cause = {"error": str(error)}, error
    except Exception as error:
        if (refused := refusal(error, place)) is not None:
            raise refused from error
        write_text(place / TRACEBACK, "".join(traceback.format_exception(error)))
        failure = {"error": f"unexpected {type(error).__name__}: {error}; the traceback is in {place / TRACEBACK}"}
    return _failed(place, failure, cause)


def _failed(place: Path, failure: dict[str, Any], cause: LuthierError | None) -> RunRecord:
    logger.log(logging.INFO if "pruned" in failure else logging.ERROR, "%s: %s", place.name, failure["error"])
    write_json(place / FAILED, failure)
    return RunRecord(place, error=failure["error"], cause=cause, pruned="pruned" in failure)


def _check_it_can_choose(cell: RunRecord) -> None:
    """Stop at the first run that leaves nothing to choose by.

    Raises:
        RecipeError: no stage has a score on a validation split.
    """
    if validation_score_of([stage.metrics for stage in cell.stages]) is None:
        raise RecipeError(NOTHING_TO_CHOOSE_BY, where=str(cell.folder), fix=GIVE_VALIDATION)


def _write_choice(recipe: RecipeBase, folder: Path) -> None:
    """Write the recipe of what was chosen beside the run, ready to be run alone."""
    choice, place = recommend(folder), folder / CHOSEN
    if choice is None or choice.chosen is None:
        place.unlink(missing_ok=True)
        return
    chosen = cell_recipe(recipe, choice.chosen.factors)
    named = chosen.model_copy(update={"name": f"{recipe.name[:70].rstrip()}-best"})
    write_text(place, recipe_yaml(named), hidden=True)
