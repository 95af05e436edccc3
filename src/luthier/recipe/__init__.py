"""The typed recipe: what a user writes, checked in one go, with every error named by line."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "RecipeBase": "luthier.recipe.recipe",
    "check_recipe": "luthier.recipe.loading",
    "json_schema": "luthier.recipe.recipe",
    "load_recipe": "luthier.recipe.loading",
    "recipe_yaml": "luthier.recipe.recipe",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
