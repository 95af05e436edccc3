"""`evaluate` on a saved run without a data block: the run's own data are judged on, or it is said why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from luthier.models.manifest import write_manifest


@pytest.fixture
def judged(workplace):
    """A finished run, and a recipe that only evaluates it."""
    workplace.tune.update(method="head_only", epochs=1)
    assert workplace.run("--no-report") == 0
    workplace.recipe.update(name="again", stages=[{"evaluate": workplace.recipe["stages"][1]["evaluate"]}])
    return workplace


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())["scores"]


@pytest.mark.parametrize("place", ["00-tune", "00-tune/model", ""])
@pytest.mark.parametrize("of_stage", [True, False])
def test_the_saved_runs_data_are_judged_on(judged, place: str, of_stage: bool):
    named = str(judged.run_folder / place)
    judged.recipe.pop("model")
    (judged.recipe["stages"][0]["evaluate"] if of_stage else judged.recipe)["model"] = named
    assert judged.luthier("plan", judged.write()) == 0
    assert judged.run("--no-report") == 0
    assert scores(judged.folder / "runs" / "again" / "00-evaluate") == scores(judged.run_folder / "01-evaluate")


def test_it_is_checked_without_torch(judged):
    judged.recipe["model"] = str(judged.run_folder / "00-tune")
    code = (
        "import sys; from luthier.cli.arguments import main; code = main(['validate', sys.argv[1]]);"
        "sys.exit(code or 9 * ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code, judged.write()], check=False).returncode == 0


def test_a_data_block_of_the_stage_counts_more(judged):
    judged.recipe["model"] = str(judged.run_folder / "00-tune")
    judged.recipe["stages"][0]["evaluate"]["data"] = {"test": str(judged.folder / "validation.tsv")}
    assert judged.run("--no-report") == 0
    found = json.loads((judged.folder / "runs" / "again" / "00-evaluate" / "metrics.json").read_text())
    assert found["scores"] != scores(judged.run_folder / "01-evaluate")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "there is no data to judge on: give its `data`"),
        ({"train": "•••/train.tsv"}, "a secret in them is not saved"),
        ({"train": "train.tsv", "columns": 3}, "can't be taken from its card: `columns`"),
    ],
)
def test_data_that_can_not_be_taken_are_told_before_anything_runs(judged, data: Any, said: str, capsys):
    model = judged.run_folder / "00-tune" / "model"
    card = json.loads((model / "luthier.json").read_text())
    (model / "luthier.json").write_text(json.dumps(card | {"data": data}))
    write_manifest(model)
    judged.recipe["model"] = str(model)
    assert judged.luthier("validate", judged.write()) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "`data`" in told
    assert "recipe.json" in told or "recipe.yaml" in told
