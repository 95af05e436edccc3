"""Reading a recipe: the file, the keys set on the command line, and the comparison that it asks for.

Loading a recipe imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path

from luthier.errors import RecipeError
from luthier.recipe.checking import checked
from luthier.recipe.comparison import with_preset
from luthier.recipe.grid import grid_problems
from luthier.recipe.overrides import apply_override
from luthier.recipe.recipe import RecipeBase, recipe_model
from luthier.recipe.yaml_limits import MOST_CHARACTERS
from luthier.recipe.yaml_text import YamlText, parse_yaml

# A character of UTF-8 has at most 4 bytes.
_MOST_BYTES = 4 * MOST_CHARACTERS + 3


def load_recipe(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> RecipeBase:
    """Read and check a recipe file.

    Args:
        path: a YAML file.
        overrides: `a.b=value` texts, applied before checking; values are read as YAML.

    Raises:
        RecipeError: the file can't be read, or holds errors; all of them are listed, each with its line.
    """
    place = Path(path)
    try:
        text = _read(place)
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", where=str(place), fix="`luthier init` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"the recipe can't be read: {error}", where=str(place), fix="recipes are UTF-8 text"
        ) from error
    return check_recipe(parse_yaml(text, str(place)), overrides)


def _read(place: Path) -> str:
    """The text of a file; of one that is too long for a recipe only as much as shows it."""
    with place.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    return content.decode("utf-8-sig", "strict" if len(content) <= _MOST_BYTES else "ignore")


def check_recipe(source: YamlText, overrides: tuple[str, ...] | list[str] = ()) -> RecipeBase:
    """Check parsed YAML, every cell of its comparison included. See `load_recipe`."""
    for text in overrides if isinstance(source.data, dict) else ():
        apply_override(source, text)

    def comparison(recipe: RecipeBase, problems: list[str]) -> RecipeBase:
        expanded = _expanded(recipe)
        problems += grid_problems(expanded, source)
        return expanded

    return checked(source, comparison)


def _expanded(recipe: RecipeBase) -> RecipeBase:
    """The recipe with the grid of its preset written out."""
    if recipe.compare is None or recipe.compare.preset is None:
        return recipe
    data = recipe.model_dump(mode="json", exclude_unset=True)
    return recipe_model().model_validate(with_preset(data, recipe.compare.preset, recipe.seed))
