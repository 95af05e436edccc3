"""What a terminal shows below the table."""

import io
import json
from pathlib import Path

from rich.console import Console

from luthier.report.results import read_run
from luthier.report.tables import comparison_table
from luthier.report.terminal import MOST_SCORES, print_details
from tests.report.fixtures import add_evaluation, grid, write_recipe, write_stage


def printed(folder: Path, width: int = 150) -> list[list[str]]:
    out = io.StringIO()
    print_details(comparison_table([read_run(folder)]), Console(file=out, width=width))
    return [line.split() for line in out.getvalue().splitlines() if line]


def alone(folder: Path, scores: dict[str, float], intervals: dict[str, list[float]]) -> list[list[str]]:
    write_stage(folder / "00-tune", 0.8)
    place = folder / "00-tune" / "metrics.json"
    metrics = json.loads(place.read_text()) | {"scores": scores, "intervals": intervals}
    place.write_text(json.dumps(metrics))
    write_recipe(folder, "name: x\n")
    return printed(folder)


def test_a_single_run_shows_every_score_with_its_interval(tmp_path: Path):
    scores = {"test/accuracy": 0.8, "test/loss": 0.25}
    assert alone(tmp_path / "a", scores, {"test/accuracy": [0.7, 0.9]}) == [
        ["score", "test", "95", "%", "over", "test", "rows", "better", "is"],
        ["accuracy", "0.8000", "[0.7000,", "0.9000]", "higher"],
        ["loss", "0.2500", "lower"],
    ]
    assert alone(tmp_path / "b", scores, {})[0] == ["score", "test", "better", "is"]
    assert alone(tmp_path / "c", {"test/accuracy": 0.8}, {}) == []


def test_many_scores_are_cut_and_counted(tmp_path: Path):
    lines = alone(tmp_path, {f"test/{n}/accuracy": n / 100 for n in range(MOST_SCORES + 3)}, {})
    assert len(lines) == MOST_SCORES + 2
    assert lines[-1][0] == "3"


def test_a_comparison_shows_what_a_suite_tells_about_all_lines(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1,))
    assert printed(folder) == []
    for method, gain in (("full", 0.0), ("lora", 0.1)):
        sides = {"accuracy": 0.7 + gain, "shift": 0.5, "calibration": 0.2 - gain}
        add_evaluation(folder, method, 1, {"robustness": {"perspectives": sides}})
    lines = printed(folder)
    assert lines[0] == ["Robustness", "against", "full"]
    gap, ratio = (0.1 / 0.3 + 0.5) / 3, (0.1 / 0.7 + 0.5) / 3
    assert lines[3] == ["lora", "0.8", "0.5", "0.1", f"{gap:.4g}", f"{ratio:.4g}", "1.167"]
