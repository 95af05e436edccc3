"""Reading run directories, whole and damaged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.errors import WorkspaceError
from luthier.report.html import write_report
from luthier.report.results import read_run, read_runs

from .fixtures import METHODS, add_evaluation, cell_folder, fail, grid, write_recipe, write_stage


def test_cells_come_in_the_grids_order_with_their_curves(tmp_path: Path):
    run = read_run(grid(tmp_path / "grid"))
    assert [c.factors["stages.0.tune.method"] for c in run.cells][::3] == list(METHODS)
    assert [step for step, _ in run.cells[0].curves["00-tune"]["loss"]] == list(range(10, 201, 10))
    assert set(run.cells[0].curves["00-tune"]) == {"loss", "validation/accuracy"}
    assert [c.seed for c in run.cells[:3]] == [1, 2, 3]
    assert not run.problems
    assert not any(c.problems for c in run.cells)


def test_after_a_resume_the_last_line_of_a_step_counts(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    with (cell_folder(folder, "full", 1) / "00-tune" / "log.jsonl").open("a") as file:
        file.write(
            '{"event": "log", "step": 200, "loss": 9.0}\n{"event": "log", "step": 200, "loss": NaN}\n{"event": "l'
        )
    assert read_run(folder).cells[0].curves["00-tune"]["loss"][-1] == (200, 9.0)


def test_failed_unfinished_and_torn_cells_are_told(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    fail(folder, "full", 1, "out of memory")
    (cell_folder(folder, "full", 2) / "00-tune" / "done.json").unlink()
    (cell_folder(folder, "full", 3) / "00-tune" / "metrics.json").write_text('{"sco')
    cells = read_run(folder).cells
    assert [c.status for c in cells[:4]] == ["failed", "unfinished", "unfinished", "finished"]
    assert cells[0].error == "out of memory"
    assert cells[1].problems == ["00-tune has begun and is not done"]
    assert cells[2].problems == ["00-tune/metrics.json is torn"]


def test_a_stage_that_the_recipe_has_and_the_folder_lacks_is_unfinished(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    write_recipe(cell_folder(folder, "full", 1), "seed: 1\nstages:\n- tune: {}\n- evaluate: {}\n")
    cell = read_run(folder).cells[0]
    assert cell.status == "unfinished"
    assert list(cell.stages) == ["00-tune"]


def test_a_stage_that_was_made_before_an_earlier_one_began_again_is_left_out(tmp_path: Path):
    """As where a recipe was changed, and its first stage has failed or still runs."""
    folder = grid(tmp_path / "grid")
    place = cell_folder(folder, "full", 1)
    write_recipe(place, "seed: 1\nstages:\n- tune: {}\n- evaluate: {}\n")
    write_stage(place / "01-evaluate", 0.9)
    assert list(read_run(folder).cells[0].stages) == ["00-tune", "01-evaluate"]
    (place / "00-tune" / "done.json").unlink()
    cell = read_run(folder).cells[0]
    assert cell.status == "unfinished"
    assert not cell.stages
    assert cell.problems == [
        "00-tune has begun and is not done",
        "01-evaluate is of before 00-tune was begun again, and is left out",
    ]


def test_a_stage_behind_torn_metrics_is_read(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    place = cell_folder(folder, "full", 1)
    write_recipe(place, "seed: 1\nstages:\n- tune: {}\n- evaluate: {}\n")
    write_stage(place / "01-evaluate", 0.9)
    (place / "00-tune" / "metrics.json").write_text('{"sco')
    assert list(read_run(folder).cells[0].stages) == ["01-evaluate"]


def test_cells_never_started_and_cells_of_another_grid_are_told(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace('"prompt", ', '"ia3", '))
    run = read_run(folder)
    ia3 = [c for c in run.cells if c.factors["stages.0.tune.method"] == "ia3"]
    assert [c.status for c in ia3] == ["unfinished"] * 3
    assert ia3[0].problems == ["it has not been started"]
    assert run.problems == ["3 of the folders in cells/ belong to another grid and are left out"]


def test_of_two_folders_with_one_cell_the_one_that_ran_last_is_shown(tmp_path: Path):
    """As where the factors were named in another order, and the settings of all cells have changed since."""
    folder = grid(tmp_path / "grid")
    older = cell_folder(folder, "prompt", 1)
    for name, time in (("aaa", 2e9), ("zzz", 1e9)):
        newer = shutil.copytree(older, older.with_name(name))
        text = (newer / "00-tune" / "metrics.json").read_text()
        metrics = json.loads(text)
        metrics["scores"] = dict.fromkeys(metrics["scores"], 0.123 if name == "aaa" else 0.456)
        (newer / "00-tune" / "metrics.json").write_text(json.dumps(metrics))
        os.utime(newer / "recipe.yaml", (time, time))
    os.utime(older / "recipe.yaml", (1.5e9, 1.5e9))
    (cell,) = [c for c in read_run(folder).cells if (c.factors["stages.0.tune.method"], c.seed) == ("prompt", 1)]
    assert set(cell.stages["00-tune"]["scores"].values()) == {0.123}


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"scores": 3, "cost": []}', "[" * 100_000, '{"scores": {"a": 1e999}}'],
    ids=["empty", "list", "numbers", "deep", "infinite"],
)
@pytest.mark.parametrize("name", ["metrics.json", "done.json", "log.jsonl", "../cell.json", "../recipe.yaml"])
def test_no_damage_of_any_file_is_a_crash(tmp_path: Path, name: str, content: str):
    folder = grid(tmp_path / "grid", seeds=(1,))
    (cell_folder(folder, "full", 1) / "00-tune" / name).write_text(content)
    assert len(read_run(folder).cells) == len(METHODS)


def test_a_torn_recipe_and_environment_leave_the_cells_readable(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    (folder / "recipe.yaml").write_bytes(b"name: [\xff")
    (folder / "environment.json").unlink()
    run = read_run(folder)
    assert len(run.cells) == 12
    assert run.problems == ["recipe.yaml is torn or no YAML", "grid/environment.json is missing"]


def test_scores_that_are_no_numbers_are_told_and_left_out(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    path = cell_folder(folder, "full", 1) / "00-tune" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["scores"] = {"validation/accuracy": float("nan"), "validation/f1": "high", "validation/ok": 0.5}
    path.write_text(json.dumps(metrics))
    cell = read_run(folder).cells[0]
    assert cell.stages["00-tune"]["scores"] == {"validation/ok": 0.5}
    assert cell.primary is None
    assert len(cell.problems) == 2


@pytest.mark.parametrize("primary", [["validation/accuracy"], {"name": 1}, 3, True])
def test_a_main_score_that_is_no_name_is_told_and_left_out(tmp_path: Path, primary: object):
    folder = grid(tmp_path / "grid")
    path = cell_folder(folder, "full", 1) / "00-tune" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"primary": primary}))
    cell = read_run(folder).cells[0]
    assert cell.primary is None
    assert cell.problems == [f"00-tune: `primary` is {primary!r}, not the name of a score"]
    page = write_report([folder], tmp_path / "report.html").read_text()
    single = write_report([cell_folder(folder, "full", 1)], tmp_path / "single.html").read_text()
    assert "not the name of a score" in page
    assert "not the name of a score" in single


def test_costs_of_several_training_stages(tmp_path: Path):
    folder = tmp_path / "plain"
    write_stage(folder / "00-tune", 0.7, method="full")
    (folder / "00-tune").rename(folder / "00-distill")
    write_stage(folder / "01-tune", 0.8, method="prompt")
    write_stage(folder / "02-evaluate", 0.8)
    write_recipe(folder, "name: plain\nseed: 5\nstages: [{distill: {}}, {tune: {}}, {evaluate: {}}]\n")
    cell = read_run(folder).cells[0]
    each = [m["cost"] for m in cell.stages.values()]
    assert cell.cost("seconds") == pytest.approx(each[0]["seconds"] + each[1]["seconds"])
    assert cell.cost("peak_memory_bytes") == each[0]["peak_memory_bytes"]
    assert cell.cost("trainable_parameters") == 8450
    assert cell.primary == ("test/accuracy", 0.8)
    assert cell.seed == 5


def test_the_last_stage_with_a_primary_score_is_the_one_shown(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    add_evaluation(folder, "full", 1, {})
    assert read_run(folder).cells[0].primary == ("test/accuracy", 0.72)


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path):
    with pytest.raises(WorkspaceError, match="no run directory"):
        read_runs([grid(tmp_path / "grid"), tmp_path])


def test_reading_and_tables_need_neither_torch_nor_matplotlib():
    code = (
        "import sys, luthier.report, luthier.report.tables, luthier.report.html, luthier.report.findings\n"
        "print(*sorted({'torch', 'matplotlib', 'jinja2', 'scipy', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
