"""The README's picture shows the numbers of the demo, and the numbers are those of the recipe that it runs."""

import importlib.util
import json
import re
from pathlib import Path

import matplotlib
import pytest

from luthier.recipe.loading import load_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("picture", ROOT / "demo" / "picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def numbers(demo) -> dict:
    return json.loads(demo.NUMBERS.read_text(encoding="utf8"))


def told(svg: str) -> str:
    return re.search(r"<desc>(.*?)</desc>", svg, flags=re.S)[1]


def test_the_picture_is_drawn_from_the_numbers(demo, numbers: dict):
    kept, drawn = demo.PICTURE.read_text(encoding="utf8"), demo.picture(numbers)
    assert told(kept) == told(drawn)
    if numbers["matplotlib"] == matplotlib.__version__:
        assert kept == drawn


def test_another_number_would_be_another_picture(demo, numbers: dict):
    first = next(iter(numbers["methods"].values()))
    changed = json.loads(json.dumps(numbers))
    next(iter(changed["methods"].values()))["seeds"] = {seed: s - 0.05 for seed, s in first["seeds"].items()}
    assert told(demo.picture(changed)) != told(demo.PICTURE.read_text(encoding="utf8"))


def test_the_numbers_are_those_of_the_recipe_that_the_demo_runs(numbers: dict):
    assert f"luthier run {numbers['recipe']}" in (ROOT / "Makefile").read_text()
    preset = load_recipe(ROOT / numbers["recipe"]).compare.preset
    assert set(numbers["methods"]) == set(preset.methods)
    assert {len(one["seeds"]) for one in numbers["methods"].values()} == {preset.seeds}
    assert numbers["recommended"] in preset.methods


def test_the_demo_makes_its_case(numbers: dict):
    """Methods that learn, intervals inside the metric's range, and at least one that is told apart."""
    assert all(0.5 < one["interval"][0] < one["interval"][1] <= 1 for one in numbers["methods"].values())
    assert any(one["told_apart"] for one in numbers["methods"].values())
    assert all(-1 <= end <= 1 for one in numbers["methods"].values() for end in one["best_minus_this"] or [])


def test_the_readme_shows_the_picture_and_says_what_it_says(demo, numbers: dict):
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    assert f"](docs/{demo.PICTURE.name})" in readme
    assert f"recommends `{numbers['recommended']}`" in readme


def test_numbers_of_a_run_are_its_own(demo, tmp_path: Path):
    from tests.report.test_choice import CLOSE, preset_run

    found = demo.numbers_of(preset_run(tmp_path / "run", CLOSE))
    assert found["recommended"] == "lora"
    assert found["methods"]["full"]["seeds"] == {"1": 0.8, "2": 0.84, "3": 0.82}
    assert found["methods"]["prompt"]["told_apart"]
