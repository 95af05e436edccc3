"""Checking the keys of one recipe: all problems at once."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from luthier.errors import RecipeError
from luthier.recipe.problems import explained
from luthier.recipe.recipe import RecipeBase, recipe_model
from luthier.recipe.yaml_text import YamlText
from luthier.registry import import_plugins

Further = Callable[[RecipeBase, list[str]], RecipeBase]


def checked(source: YamlText, further: Further | None = None) -> RecipeBase:
    """The recipe in parsed YAML.

    Args:
        source: the YAML, overrides applied.
        further: what else is checked once the keys are valid: it gives the recipe, changed or not, and adds what is
            wrong with it to the list of problems.

    Raises:
        RecipeError: lists every problem with its line.
    """
    if not isinstance(source.data, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=source.name, fix="`luthier init` writes one")
    problems = list(source.problems)
    plugins = source.data.get("plugins")
    for plugin, error in import_plugins(map(str, plugins) if isinstance(plugins, list) else ()).items():
        problems.append(f"{source.place(('plugins',))}: plugins: {plugin} can't be imported: {error}")
    model = recipe_model()
    try:
        recipe = model.model_validate(source.data)
        recipe = further(recipe, problems) if further else recipe
    except ValidationError as error:
        problems += [line for detail in error.errors() for line in explained(detail, source, model)]
    except RecipeError as error:
        problems.append(f"{source.place(('compare', 'preset'))}: compare.preset: {error}")
    if problems:
        many = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        raise RecipeError(f"{many} in the recipe\n" + "\n".join(problems), where=source.name)
    return recipe
