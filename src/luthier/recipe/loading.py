"""Reading a recipe: the file, the keys set on the command line, and the comparison that it asks for.

Loading a recipe imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.errors import RecipeError
from luthier.recipe.checking import examined
from luthier.recipe.comparison import filled_in, with_preset
from luthier.recipe.grid import grid_problems
from luthier.recipe.overrides import apply_override
from luthier.recipe.problem import Problem, refusal
from luthier.recipe.recipe import RecipeBase, recipe_model, stage_names
from luthier.recipe.yaml_limits import MOST_CHARACTERS
from luthier.recipe.yaml_text import YamlText, parse_yaml
from luthier.storage.nearby import did_you_mean

SUFFIXES = (".yaml", ".yml", ".json")
# A character of UTF-8 has at most 4 bytes.
_MOST_BYTES = 4 * MOST_CHARACTERS + 3


def load_recipe(path: str | Path, overrides: tuple[str, ...] | list[str] = (), *, inputs: bool = False) -> RecipeBase:
    """Read and check a recipe file. Relative paths in it that lead nowhere from the working directory are taken from
    the recipe's folder.

    Args:
        path: a YAML file.
        overrides: `a.b=value` texts, applied before checking; values are read as YAML.
        inputs: whether what the recipe needs on this machine is looked at as well: files, their columns, models and
            optional dependencies.

    Raises:
        RecipeError: the file can't be read, or holds errors; all of them are listed, each with its line.
        DataError, ModelError: the same, where the first error is one of data or models.
    """
    place = Path(path)
    try:
        text = _read(place)
    except FileNotFoundError:
        raise RecipeError(
            "there is no such recipe",
            where=str(place),
            fix=did_you_mean(place, SUFFIXES) or "`luthier init` writes one",
        ) from None
    except IsADirectoryError:
        inside = next((place / name for name in ("recipe.yaml", "best.yaml") if (place / name).is_file()), None)
        fix = f"did you mean {inside}?" if inside else "name the recipe's file"
        raise RecipeError("this is a folder, and no recipe", where=str(place), fix=fix) from None
    except OSError as error:
        fix = "choose a file that you may read, or have its permissions changed"
        raise RecipeError(f"the recipe can't be read: {error.strerror or error}", where=str(place), fix=fix) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"the recipe can't be read: {error}", where=str(place), fix="recipes are UTF-8 text"
        ) from error
    source = parse_yaml(text, str(place))
    source.folder = place.parent
    return check_recipe(source, overrides, inputs=inputs)


def _read(place: Path) -> str:
    """The text of a file; of one that is too long for a recipe only as much as shows it."""
    with place.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    return content.decode("utf-8-sig", "strict" if len(content) <= _MOST_BYTES else "ignore")


def check_recipe(source: YamlText, overrides: tuple[str, ...] | list[str] = (), *, inputs: bool = False) -> RecipeBase:
    """Check parsed YAML, every cell of its comparison included. See `load_recipe`."""
    if overrides and isinstance(source.data, dict):
        _open_preset(source.data, source)
        for text in overrides:
            apply_override(source, text)
    recipe, problems = examined(source)
    if recipe is not None:
        from luthier.recipe.inputs import anchor

        if source.folder is not None and anchor(recipe, source):
            recipe, problems = examined(source)
    if recipe is not None:
        recipe, problems = _expanded(recipe, problems)
    if inputs:
        problems = problems + _input_problems(recipe, problems, source)
    if recipe is None or problems:
        raise refusal(problems, source)
    return recipe


def _open_preset(data: dict[str, Any], source: YamlText) -> None:
    """Of a saved recipe with a preset, leave to the preset what it filled in, so that other methods or seeds of it, or
    another seed of the recipe, can be set."""
    compare = data.get("compare")
    if isinstance(compare, dict) and compare.get("preset") is not None and isinstance(compare.get("over"), dict):
        recipe, _ = examined(source)
        preset = recipe.compare.preset if recipe is not None and recipe.compare is not None else None
        if recipe is None or preset is None:
            return
        for key, values in filled_in(preset, [stage.name for stage in recipe.stage_list()], recipe.seed).items():
            if compare["over"].get(key) == values:
                del compare["over"][key]


def _expanded(recipe: RecipeBase, problems: list[Problem]) -> tuple[RecipeBase, list[Problem]]:
    """The recipe with the grid of its preset written out, and the problems with those of its cells."""
    if recipe.compare is not None and recipe.compare.preset is not None:
        data = recipe.model_dump(mode="json", exclude_unset=True)
        try:
            written = with_preset(data, recipe.compare.preset, recipe.seed)
            recipe = recipe_model(stage_names(written)).model_validate(written)
        except RecipeError as error:
            return recipe, [*problems, Problem(("compare", "preset"), error.what, error.fix)]
    return recipe, problems + grid_problems(recipe)


def _input_problems(recipe: RecipeBase | None, problems: list[Problem], source: YamlText) -> list[Problem]:
    from luthier.recipe.inputs import input_problems, input_problems_of_blocks

    if recipe is None or problems:
        return input_problems_of_blocks(source)
    return input_problems(recipe, source)
