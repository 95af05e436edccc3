"""A run and a comparison of one recipe: each has a folder of its own, and neither replaces what the other left."""

from pathlib import Path

import pytest

from luthier.recipe.loading import load_recipe
from luthier.report import read_run
from luthier.runs.kinds import COMPARISON, RUN, beside, check_kind, kind_of

OVER = ["--over", "seed=1,2", "--quiet"]


@pytest.fixture
def place(workplace):
    workplace.tune.update(max_steps=1, epochs=1)
    workplace.recipe["stages"].pop()
    workplace.output = ["--output", str(workplace.folder / "runs")]
    return workplace


def kept(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text(encoding="utf8") for name in ("recipe.yaml", "report.html")}


def test_a_run_in_a_folder_that_is_called_cells_stays_in_its_own(place):
    folder = place.folder / "cells"
    assert place.luthier("run", place.write(), "--quiet", "--output", str(folder)) == 0
    assert not (place.folder / "environment.json").exists()
    assert (folder / "small" / "environment.json").exists()
    assert not read_run(folder / "small").cells[0].problems


def test_a_comparison_from_the_command_line_goes_beside_the_run_of_its_recipe(place, capsys):
    assert place.run() == 0
    before = kept(place.run_folder)
    assert place.luthier("compare", place.write(), *OVER, *place.output) == 0
    assert kept(place.run_folder) == before
    beside = place.run_folder.with_name("small-compare")
    assert str(beside / "report.html") in capsys.readouterr().out.replace("\n", "")
    assert len(list(beside.glob("cells/*/00-tune/done.json"))) == 2
    saved = beside / "recipe.yaml"
    assert load_recipe(saved).name == "small-compare"
    times = {path: path.stat().st_mtime_ns for path in beside.glob("cells/*/00-tune/done.json")}
    assert place.luthier("run", str(saved), "--quiet", *place.output) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert place.run() == 0
    assert (kind_of(place.run_folder), kind_of(beside)) == (RUN, COMPARISON)


@pytest.mark.parametrize("first", ["run", "compare"])
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_folder_that_holds_the_other_kind_is_refused_and_left_as_it_is(place, capsys, first, verb):
    def write(kind: str) -> str:
        place.recipe.pop("compare", None)
        if kind == "compare":
            place.recipe["compare"] = {"over": {"seed": [1]}}
        return place.write()

    assert place.luthier("run", write(first), "--quiet", *place.output) == 0
    before = kept(place.run_folder)
    other, suffix, holds = ("compare", "compare", RUN) if first == "run" else ("run", "run", COMPARISON)
    capsys.readouterr()
    assert place.luthier(verb, write(other), *place.output) == 6
    told = capsys.readouterr().err
    assert f"{place.run_folder}: holds {holds}, whose recipe.yaml and report.html " in told
    assert f"--set name=small-{suffix}, " in told
    assert kept(place.run_folder) == before
    assert place.luthier(verb, write(other), "--set", f"name=small-{suffix}", *place.output) == 0


def test_a_cell_that_is_run_alone_does_not_replace_its_comparison(place, capsys):
    place.recipe["compare"] = {"over": {"seed": [1]}}
    assert place.run() == 0
    before = kept(place.run_folder)
    assert place.luthier("run", str(place.run_folder / "cells" / "seed=1" / "recipe.yaml"), *place.output) == 6
    assert "a folder of its own" in capsys.readouterr().err
    assert kept(place.run_folder) == before


def test_a_comparison_goes_on_in_the_folder_that_it_had(place):
    """A name of the user's own, a recipe that compares, and a folder of before comparisons went beside the run."""
    assert place.luthier("compare", place.write(), *OVER, "--set", "name=small", *place.output) == 0
    assert place.luthier("compare", place.write(), *OVER, *place.output) == 0
    place.recipe["compare"] = {"over": {"seed": [1, 2]}}
    assert place.luthier("compare", place.write(), "--quiet", *place.output) == 0
    assert place.luthier("compare", place.write(), "--over", "seed=1", "--quiet", *place.output) == 0
    assert [folder.name for folder in place.run_folder.parent.iterdir()] == ["small"]


def test_what_a_folder_holds_is_told_without_its_recipe_too(tmp_path: Path, place):
    recipe = load_recipe(place.write())
    assert kind_of(tmp_path / "nowhere") is None
    run, grid = tmp_path / "run", tmp_path / "grid"
    (run / "00-tune").mkdir(parents=True)
    (grid / "cells").mkdir(parents=True)
    (grid / "recipe.yaml").write_text("name: [")
    assert (kind_of(run), kind_of(grid)) == (RUN, COMPARISON)
    check_kind(run, recipe)
    with pytest.raises(Exception, match="holds a comparison"):
        check_kind(grid, recipe)


def test_the_name_beside_is_no_longer_than_a_name_may_be():
    assert beside("a" * 80, "compare") == "a" * 72 + "-compare"
