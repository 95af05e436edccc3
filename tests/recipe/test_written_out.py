"""A recipe that is written out beside its results, with every default in it, is the same recipe."""

from pathlib import Path

import pytest

from luthier.recipe import load_recipe, recipe_yaml


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*/*.yaml")), ids=str)
def test_it_is_read_again(path: Path, tmp_path: Path) -> None:
    written = recipe_yaml(load_recipe(path).filled_in())
    again = tmp_path / "recipe.yaml"
    again.write_text(written)
    assert recipe_yaml(load_recipe(again).filled_in()) == written
