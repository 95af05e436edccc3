"""A run directory holds either one run or a comparison: neither replaces the recipe and the report of the other."""

from __future__ import annotations

import re
from pathlib import Path

from luthier.errors import RecipeError, WorkspaceError
from luthier.recipe.recipe import RecipeBase
from luthier.recipe.yaml_text import parse_yaml

RUN, COMPARISON = "a run", "a comparison"
_STAGE = re.compile(r"\d\d-[a-z_]+")


def kind_of(folder: Path) -> str | None:
    """What a run directory holds, by its recipe, or by its folders where that can't be read; None where it holds
    neither."""
    try:
        recipe = parse_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"), "recipe.yaml").data
    except (OSError, UnicodeDecodeError, RecipeError):
        recipe = None
    if isinstance(recipe, dict):
        return COMPARISON if recipe.get("compare") else RUN
    if (folder / "cells").is_dir():
        return COMPARISON
    stages = folder.is_dir() and any(_STAGE.fullmatch(one.name) and one.is_dir() for one in folder.iterdir())
    return RUN if stages else None


def check_kind(folder: Path, recipe: RecipeBase) -> None:
    """Refuse a folder that holds the other kind.

    Raises:
        WorkspaceError: a comparison would replace a run's recipe and report, or a run those of a comparison.
    """
    holds, wanted = kind_of(folder), RUN if recipe.compare is None else COMPARISON
    if holds in (None, wanted):
        return
    suffix = "compare" if wanted == COMPARISON else "run"
    raise WorkspaceError(
        f"holds {holds}, whose recipe.yaml and report.html {wanted} would replace",
        where=str(folder),
        fix=f"give it a folder of its own: --set name={beside(recipe.name, suffix)}, another `name` in the recipe, or "
        "another --output",
    )


def beside(name: str, suffix: str) -> str:
    """The name of a run directory beside another's, as long as a name may be."""
    return f"{name[: 79 - len(suffix)].rstrip()}-{suffix}"
