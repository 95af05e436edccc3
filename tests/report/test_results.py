"""Reading runs, and what the table says about them."""

import json
import math
import statistics
from pathlib import Path

import pytest

from luthier.errors import WorkspaceError
from luthier.report.html import headline
from luthier.report.results import read_run
from luthier.report.statistics import difference, group_by_seed, higher_is_better
from luthier.report.tables import comparison_table, to_json, to_markdown

from .fixtures import METHODS, grid, write_stage


def test_cells_come_in_the_grids_order_with_their_curves(tmp_path: Path):
    run = read_run(grid(tmp_path / "grid"))
    assert [c.factors["stages.0.tune.method"] for c in run.cells][::3] == list(METHODS)
    assert [step for step, _ in run.cells[0].curves["00-tune"]["loss"]] == [0, 10, 20, 30, 40]


def test_after_a_resume_the_last_line_of_a_step_counts(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    log = folder / "cells" / "method=full,seed=1" / "00-tune" / "log.jsonl"
    with log.open("a") as file:
        file.write('{"event": "log", "step": 40, "loss": 9.0}\n{"event": "log", "st')
    assert read_run(folder).cells[0].curves["00-tune"]["loss"][-1] == (40, 9.0)


def test_failed_unfinished_and_torn_cells_are_told(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    cells = folder / "cells"
    (cells / "method=full,seed=1" / "failed.json").write_text('{"error": "out of memory"}')
    (cells / "method=full,seed=2" / "00-tune" / "done.json").unlink()
    (cells / "method=full,seed=3" / "00-tune" / "metrics.json").write_text('{"sco')
    assert [c.status for c in read_run(folder).cells[:3]] == ["failed", "unfinished", "unfinished"]
    assert read_run(folder).cells[0].error == "out of memory"
    table = comparison_table([read_run(folder)])
    assert table.cells()[0][1] == "failed, unfinished"
    assert table.lines[1].is_baseline


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path):
    with pytest.raises(WorkspaceError, match="no run directory"):
        read_run(tmp_path)


def test_mean_deviation_and_paired_interval_by_hand(tmp_path: Path):
    rows = group_by_seed(read_run(grid(tmp_path / "grid")).cells, "grid")
    scores = list(rows[0].scores.values())
    assert rows[0].mean == pytest.approx(statistics.fmean(scores))
    assert rows[0].deviation == pytest.approx(statistics.stdev(scores))
    found = difference(rows[2], rows[0])
    gaps = [rows[2].scores[s] - rows[0].scores[s] for s in (1, 2, 3)]
    half = 4.302652729911275 * statistics.stdev(gaps) / math.sqrt(3)
    assert found.mean == pytest.approx(statistics.fmean(gaps))
    assert found.interval == pytest.approx((found.mean - half, found.mean + half))


def test_one_seed_has_no_interval_and_no_claim(tmp_path: Path):
    table = comparison_table([read_run(grid(tmp_path / "grid", seeds=(1,)))])
    assert all(line.difference is None or line.difference.interval is None for line in table.lines)
    assert "±" not in to_markdown(table)
    assert "can be told from chance" in headline(table)


def test_the_headline_claims_no_more_than_the_interval(tmp_path: Path):
    clear = comparison_table([read_run(grid(tmp_path / "a", gap=0.05))])
    assert "residual_prompt" in headline(clear)
    assert "can't be told from chance" not in headline(clear)
    unclear = comparison_table([read_run(grid(tmp_path / "b", gap=0.0003))])
    assert "can't be told from chance" in headline(unclear) or "the baseline" in headline(unclear)


def test_the_recipe_can_name_the_baseline(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    text = (folder / "recipe.yaml").read_text().replace("{over:", "{baseline: lora, over:")
    (folder / "recipe.yaml").write_text(text)
    assert [line.is_baseline for line in comparison_table([read_run(folder)]).lines] == [False, True, False, False]


def test_table_as_data_and_markdown(tmp_path: Path):
    table = comparison_table([read_run(grid(tmp_path / "grid"))])
    assert json.loads(json.dumps(to_json(table)))[0]["seeds"].keys() == {"1", "2", "3"}
    assert to_markdown(table).count("\n") == 2 + len(METHODS)


def test_a_plain_run_is_one_line(tmp_path: Path):
    folder = tmp_path / "plain"
    write_stage(folder / "00-tune", 0.8)
    (folder / "recipe.yaml").write_text("name: plain\n")
    assert comparison_table([read_run(folder)]).cells()[0][:2] == ["plain", "0.8000"]


def test_which_way_is_better():
    assert higher_is_better("test/accuracy")
    assert not higher_is_better("test/expected_calibration_error")
    assert not higher_is_better("seconds")
