"""Running a recipe from Python: one run, or the comparison that it asks for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.compare.cells import run_comparison
from luthier.errors import LuthierError, RecipeError
from luthier.models.quiet import noise_logged
from luthier.recipe import RecipeBase, check_recipe, load_recipe, recipe_yaml
from luthier.recipe.yaml_text import YamlText
from luthier.runs.kinds import check_kind
from luthier.runs.runner import FAILED, GOES_ON, RunRecord, locked, run_cell
from luthier.settings import Settings
from luthier.storage.files import refusal, write_json, write_text
from luthier.storage.one_version import one_version
from luthier.storage.provenance import ENVIRONMENT, environment
from luthier.storage.ranks import conducted


def run(
    recipe: str | Path | dict[str, Any] | RecipeBase,
    overrides: list[str] | tuple[str, ...] | str = (),
    *,
    output: str | Path = "runs",
    on_cell: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> RunRecord:
    """Run a recipe; run it again to continue where a stopped run left off.

    Under torchrun every process calls it: the main one runs the recipe and writes, the others train along with it.

    Args:
        recipe: path of a YAML file, a mapping like its content, or a checked recipe.
        overrides: `a.b=value` texts, or one.
        output: folder that the run directory is made in.
        on_cell: called before each cell of a grid with its number, their count and its factors.

    Returns:
        The finished run. In a grid a cell that fails is recorded with its error, and the others go on.

    Raises:
        RecipeError, DataError, ModelError, TrainingError, WorkspaceError: what went wrong and what to do.
        InterruptedRunError: a signal came; one whole checkpoint was written.
    """
    checked = as_recipe(recipe, overrides)
    with noise_logged():
        return conducted(lambda: _run(checked, Path(output) / checked.name, on_cell))


def _run(checked: RecipeBase, folder: Path, on_cell: Callable[[int, int, dict[str, Any]], None] | None) -> RunRecord:
    with locked(folder), one_version():
        check_kind(folder, checked)
        if not (folder / ENVIRONMENT).exists():
            write_json(folder / ENVIRONMENT, environment())
        if checked.compare is None:
            (folder / FAILED).unlink(missing_ok=True)
            try:
                return run_cell(checked, folder)
            except LuthierError as error:
                if error.exit_code not in GOES_ON:
                    write_json(folder / FAILED, {"error": str(error)})
                raise
            except Exception as error:
                if refusal(error) is None:
                    write_json(folder / FAILED, {"error": f"unexpected {type(error).__name__}: {error}"})
                raise
        write_text(folder / "recipe.yaml", recipe_yaml(checked), hidden=True)
        return run_comparison(checked, folder, on_cell)


def _plain(recipe: dict[str, Any]) -> Any:
    """A mapping in the types that YAML has: paths are text, and numbers of numpy are numbers.

    Raises:
        RecipeError: it holds something else.
    """

    def converted(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, Settings):
            return value.model_dump(mode="json", exclude_unset=True)
        if getattr(value, "ndim", None) == 0:
            return value.item()
        raise TypeError(f"{value!r} is of the type {type(value).__name__}")

    try:
        return json.loads(json.dumps(recipe, default=converted))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"the recipe holds what no YAML could: {error}",
            fix="give text, numbers, true and false, None, lists and mappings",
        ) from error


def as_recipe(
    recipe: str | Path | dict[str, Any] | RecipeBase, overrides: list[str] | tuple[str, ...] | str = ()
) -> RecipeBase:
    """A checked recipe from a path or a mapping, what it needs on this machine included, or itself."""
    overrides = [overrides] if isinstance(overrides, str) else overrides
    if isinstance(recipe, RecipeBase):
        if overrides:
            return check_recipe(YamlText("recipe", recipe.model_dump(mode="json", exclude_unset=True)), overrides)
        return recipe
    if isinstance(recipe, dict):
        return check_recipe(YamlText("recipe", _plain(recipe)), overrides, inputs=True)
    return load_recipe(recipe, overrides, inputs=True)
