"""Checking the keys of one recipe: all problems at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from luthier.errors import RecipeError
from luthier.recipe.problem import Problem, refusal
from luthier.recipe.problems import explained, merged
from luthier.recipe.recipe import RecipeBase, recipe_model, stage_names
from luthier.recipe.yaml_text import Path, YamlText
from luthier.registry import classes_stay, import_plugins

# What the libraries below count to.
_MOST = 2**63 - 1


def examined(source: YamlText) -> tuple[RecipeBase | None, list[Problem]]:
    """The recipe in parsed YAML, overrides applied, and what is wrong with its keys; None where it can't be built.

    Raises:
        RecipeError: the YAML is no mapping.
    """
    if not isinstance(source.data, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=source.name, fix="`luthier init` writes one")
    problems = [*source.problems, *_beyond_counting(source.data, source)]
    plugins = source.data.get("plugins")
    for plugin, error in import_plugins(map(str, plugins) if isinstance(plugins, list) else ()).items():
        problems.append(Problem(("plugins",), f"{plugin} can't be imported: {error}"))
    try:
        with classes_stay():  # the first recipe of a process makes what it is validated by
            model = recipe_model(stage_names(source.data))
            return model.model_validate(source.data), problems
    except ValidationError as error:
        problems += merged([problem for detail in error.errors() for problem in explained(detail, source, model)])
    return None, problems


def _beyond_counting(node: Any, source: YamlText, path: Path = ()) -> Iterator[Problem]:
    """Whole numbers anywhere in a recipe that are larger than any setting can be."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for step, below in inside:
        yield from _beyond_counting(below, source, (*path, step))
    if isinstance(node, int) and abs(node) > _MOST:
        fix = f"where text is meant, {source.quoting(path)}"
        yield Problem(path, f"no whole number here can be beyond {_MOST:,}", fix)


def checked(source: YamlText) -> RecipeBase:
    """The recipe in parsed YAML.

    Raises:
        RecipeError: lists every problem with its line.
    """
    recipe, problems = examined(source)
    if recipe is None or problems:
        raise refusal(problems, source)
    return recipe
