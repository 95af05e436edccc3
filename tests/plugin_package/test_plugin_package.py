"""A package of somebody else brings a stage, a kind of artefact, its predictor, a task, a method and sections of the
page, and all verbs work on them: found by an entry point, or by the `plugins` of a recipe."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import luthier
from tests.cli.conftest import GOOD_WORDS, Workplace, tiny_model, workplace, write_tsv
from tests.processes import python

__all__ = ["tiny_model", "workplace"]
HERE = Path(__file__).parent
NAMES = ("pocket", "pocket_grades", "pocket_norms")
# The file that is edited -> what in it, and the stages that run again; the tune of Luthier's own parts never does.
EDITS = {
    "making.py": (("TITLE = ", "TITLE = ''+"), {"03-pocket"}),
    "grades.py": ((".square()", ".abs()"), {"01-tune", "02-evaluate", "03-pocket"}),
}


class Site:
    """A folder on the search path that holds the package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(HERE / "elsewhere" / "pocket_luthier", folder / "pocket_luthier")

    def announce(self) -> None:
        """Leave what an installer leaves: the distribution and its entry points."""
        place = self.folder / "pocket_luthier-0.1.dist-info"
        place.mkdir()
        (place / "METADATA").write_text("Metadata-Version: 2.1\nName: pocket-luthier\nVersion: 0.1\n")
        (place / "entry_points.txt").write_text("[luthier.plugins]\npocket = pocket_luthier.parts\n")

    def break_it(self) -> None:
        """Let the module that is announced fail when it is imported."""
        (self.folder / "pocket_luthier" / "parts.py").write_text("raise KeyError('of the plugin')\n")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / "pocket_luthier" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def drive(self, *commands: list[str], code: int = 0) -> list[dict[str, Any]]:
        """What each command says, all of them in one new process; each ends with this exit code."""
        paths = [str(Path(luthier.__file__).parents[1]), str(self.folder)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        done = python(HERE / "drive.py", json.dumps(commands), env=environment)
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout.splitlines()[-1])
        for command, answer in zip(commands, answers, strict=True):
            assert answer["code"] == code, (command, answer)
        return answers


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def pocket(workplace: Workplace) -> Workplace:
    """A recipe that uses every part of the package, beside a stage that uses none."""
    sources = {}
    for split in ("train", "validation", "test"):
        lines = (workplace.folder / f"{split}.tsv").read_text().splitlines()[1:33]
        graded = [(text, "3" if label == "positive" else "1") for text, label in (x.split("\t") for x in lines)]
        sources[split] = str(write_tsv(workplace.folder / f"graded-{split}.tsv", graded))
    short = {"max_steps": 2, "batch_size": 8}
    plain = {**workplace.tune["data"], "task": "single_sentence"}
    graded = {**sources, "task": "pocket_grades", "labels": ["1", "2", "3"]}
    base = str(workplace.folder / "model")
    workplace.recipe["stages"] = [
        {"tune": {"method": "bitfit", "data": plain, **short}},
        {"tune": {"method": "pocket_norms", "data": graded, "model": base, **short}},
        {"evaluate": {"suites": ["task"]}},
        {"pocket": {"words": ["fine", "dull"]}},
    ]
    return workplace


def keys(run: Path) -> dict[str, str]:
    return {place.parent.name: json.loads(place.read_text())["key"] for place in run.glob("*/done.json")}


@pytest.mark.parametrize(("found_by", "edited"), [("entry point", "making.py"), ("recipe", "grades.py")])
def test_a_package_of_somebody_else_goes_through_every_verb(pocket: Workplace, site: Site, found_by: str, edited: str):
    if found_by == "entry point":
        site.announce()
    else:
        pocket.recipe["plugins"] = ["pocket_luthier.parts"]
    recipe, run = pocket.write(), pocket.run_folder
    valid, planned, ran, again, compared, _ = site.drive(
        ["validate", recipe],
        ["plan", recipe],
        ["run", recipe, "--quiet", "--no-report"],
        ["plan", recipe],
        ["compare", recipe, "--over", "seed=1,2", "--quiet", "--output", "compared"],
        ["report", str(run)],
    )
    assert "tune → tune → evaluate → pocket" in valid["out"]
    assert planned["out"].count("to do") == 4
    assert "words                2" in planned["out"]
    assert "within_one" in ran["out"]
    assert again["out"].count("done already") == 4
    assert "±" in compared["out"]
    scores = pocket.metrics("02-evaluate")["scores"]
    assert {"test/within_one", "test/accuracy"} <= scores.keys()
    page = (run / "report.html").read_text()
    assert "Words in the pocket" in page
    assert "Norms in the pocket" in page

    (old, new), expected = EDITS[edited]
    before = keys(run)
    site.edit(edited, old, new)
    booked, asked, _ = site.drive(
        ["predict", str(run), "--text", "fine dull fine", "--allow", "remote_code"],
        ["predict", str(run / "01-tune"), "--text", "fine", "--allow", "remote_code"],
        ["run", recipe, "--quiet", "--no-report"],
    )
    answer = json.loads(asked["out"])
    assert set(answer["probabilities"]) == {"1", "2", "3"}
    assert json.loads(booked["out"]) == {"text": "fine dull fine", "pocket_label": answer["label"]}
    after = keys(run)
    assert {name for name in before if after[name] != before[name]} == expected


def test_an_installed_package_is_listed_explained_and_in_the_schema(site: Site):
    site.announce()
    listed, schema, *explained = site.drive(["list"], ["schema"], *(["explain", name] for name in NAMES))
    for name, told in zip(NAMES, explained, strict=True):
        assert name in listed["out"]
        assert name in schema["out"]
        assert name in told["out"]
    stage, task, method = (told["out"] for told in explained)
    assert "gives model (pocketbook)" in stage
    assert "metrics: within_one, accuracy" in task
    assert "biases" in method


def test_a_plugin_that_is_gone_is_told_when_its_answer_is_asked_for(pocket: Workplace, site: Site):
    pocket.recipe["plugins"] = ["pocket_luthier.parts"]
    del pocket.recipe["stages"][0], pocket.recipe["stages"][1:]
    site.drive(["run", pocket.write(), "--quiet", "--no-report"])
    shutil.rmtree(site.folder / "pocket_luthier")
    (told,) = site.drive(["predict", str(pocket.run_folder), "--text", GOOD_WORDS[0]], code=4)
    assert "names the plugins pocket_luthier.parts, which are not imported" in told["err"]
    asked = ["predict", str(pocket.run_folder), "--text", GOOD_WORDS[0], "--allow", "remote_code"]
    (told,) = site.drive(asked, code=4)
    assert "for the task pocket_grades, which nothing that is installed brings" in told["err"]
    assert (
        "the plugin pocket_luthier.parts can't be imported: ModuleNotFoundError: No module named 'pocket_luthier'"
        in told["err"]
    )


def test_code_that_lies_in_a_run_is_not_imported_to_ask_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from luthier.prediction.loading import import_plugins_of

    (tmp_path / "left_in_a_run.py").write_text("raise SystemExit")
    (tmp_path / "recipe.yaml").write_text("plugins: [left_in_a_run, 'no module', 3]")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_plugins_of(tmp_path, ("remote_code",))
    assert "left_in_a_run" not in sys.modules


def test_an_installed_plugin_that_can_not_be_imported_is_named(site: Site):
    site.announce()
    site.break_it()
    (answer,) = site.drive(["list"], code=2)
    assert "the plugin pocket of pocket-luthier can't be imported: KeyError: 'of the plugin'" in answer["err"]


@pytest.mark.parametrize(("plugins", "more"), [("[somewhere.else]", " --allow remote_code"), ("[]", "")])
def test_the_command_to_try_next_says_that_plugins_are_trusted(tmp_path: Path, monkeypatch, plugins: str, more: str):
    from luthier.prediction import asking

    (tmp_path / "recipe.yaml").write_text(f"plugins: {plugins}")
    monkeypatch.setattr(asking, "_command", lambda run, place: "luthier predict RUN")
    assert asking.next_command(tmp_path) == f"luthier predict RUN{more}"
