"""Presets: named comparisons that come with the stage whose parts they compare."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.errors import RecipeError
from luthier.recipe.loading import check_recipe
from luthier.recipe.yaml_text import parse_yaml
from luthier.stages.presets import Preset, preset_named, register_preset

TEXT = "name: x\nmodel: org/model\nstages:\n  - tune: {data: {train: t.tsv, validation: v.tsv}}\n"


def grid_of(preset: str) -> dict[str, Any]:
    recipe = check_recipe(parse_yaml(f"{TEXT}compare: {{preset: {preset}}}\n", "r.yaml"))
    assert recipe.compare is not None
    return recipe.compare.over


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset of somebody else's."""
    from luthier.stages import presets

    preset_named("tuning")
    monkeypatch.setattr(presets, "_PRESETS", dict(presets._PRESETS))
    register_preset(Preset("small", stage="tune", field="method", parts=("lora", "ia3")))


def test_the_methods_of_a_preset_come_from_where_it_is_registered(small: None):
    assert grid_of("small")["stages.0.tune.method"] == ["lora", "ia3"]
    assert grid_of("{name: small, methods: [full]}")["stages.0.tune.method"] == ["full"]
    assert grid_of("tuning")["stages.0.tune.method"][0] == "head_only"


def test_an_unknown_preset_is_told_once_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'tuning'") as caught:
        grid_of("{name: tunin}")
    assert "1 error in the recipe" in str(caught.value)


def test_a_recipe_without_its_stage_is_refused():
    text = "name: x\nmodel: org/model\nstages:\n  - evaluate: {data: {test: t.tsv}}\ncompare: {preset: tuning}\n"
    with pytest.raises(RecipeError, match="varies the method of the tune stage, and the recipe has none"):
        check_recipe(parse_yaml(text, "r.yaml"))


def test_a_name_is_registered_once(small: None):
    with pytest.raises(ValueError, match="registered twice"):
        register_preset(Preset("small", stage="tune", field="method", parts=("full",)))
