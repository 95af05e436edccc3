"""Means, spread, and paired differences, by hand."""

import math
import statistics
from pathlib import Path

import pytest

from luthier.report.results import Cell, read_run
from luthier.report.statistics import (
    baseline_of,
    difference,
    label_of,
    paired_differences,
    summarise,
)

from .fixtures import grid

KEYS = ("method", "seed")


def made(scores: dict[tuple, float], name: str = "test/accuracy", keys: tuple[str, ...] = KEYS) -> list[Cell]:
    """Cells with the scores given, `{(factor values): score}`."""
    cells = []
    for values, score in scores.items():
        factors = dict(zip(keys, values, strict=True))
        stage = {"primary": name, "cost": {}, "intervals": {}, "details": {}, "scores": {name: score}}
        cells.append(Cell(str(values), factors, {"00-tune": stage}, seed=factors["seed"]))
    return cells


def test_mean_deviation_and_paired_interval_by_hand(tmp_path: Path):
    rows = summarise(read_run(grid(tmp_path / "grid")).cells)
    scores = list(rows[0].scores.values())
    assert rows[0].n == 3
    assert rows[0].mean == pytest.approx(sum(scores) / 3)
    assert rows[0].deviation == pytest.approx(math.sqrt(sum((s - rows[0].mean) ** 2 for s in scores) / 2))
    found = paired_differences(rows, rows[0])[2]
    gaps = [rows[2].scores[s] - rows[0].scores[s] for s in (1, 2, 3)]
    half = 4.302652729911275 * statistics.stdev(gaps) / math.sqrt(3)
    assert found.mean == pytest.approx(statistics.fmean(gaps))
    assert found.interval == pytest.approx((found.mean - half, found.mean + half))


def test_only_common_seeds_are_paired():
    a, b = summarise(made({("a", 1): 0.5, ("a", 2): 0.9, ("b", 2): 0.8, ("b", 3): 0.1}))
    assert difference(b, a).mean == pytest.approx(-0.1)
    assert difference(b, a).seeds == 1
    assert difference(b, a).interval is None
    assert difference(a, a) is None


def test_no_seed_in_common_or_another_score_is_no_difference():
    a, b = summarise(made({("a", 1): 0.5, ("b", 2): 0.8}))
    assert difference(b, a) is None
    (a,), (b,) = summarise(made({("a", 1): 0.5})), summarise(made({("b", 1): 0.5}, "test/perplexity"))
    assert difference(b, a) is None
    assert paired_differences([a], None) == [None]


def test_equal_gaps_have_no_interval_and_decide_nothing():
    a, b = summarise(made({("a", 1): 0.5, ("a", 2): 0.6, ("b", 1): 0.6, ("b", 2): 0.7}))
    assert difference(b, a).interval is None
    assert not difference(b, a).decided


def test_rows_over_chosen_factors_pair_the_rest():
    keys = ("method", "rate", "seed")
    cells = made({("a", 1, 1): 0.1, ("a", 2, 1): 0.3, ("b", 1, 1): 0.2, ("b", 2, 1): 0.5}, keys=keys)
    a, b = summarise(cells, by=["method"])
    assert (a.n, a.mean) == (2, pytest.approx(0.2))
    assert difference(b, a).mean == pytest.approx(0.15)
    assert [row.n for row in summarise(cells)] == [1, 1, 1, 1]


def test_the_baseline_is_named_or_the_first_with_a_score():
    cells = made({("a", 1): 0.5, ("b", 1): 0.8})
    cells[0].status = "failed"
    rows = summarise(cells)
    assert baseline_of(rows, None) is rows[1]
    assert baseline_of(rows, "a") is rows[1]
    assert baseline_of(summarise(made({("a", 1): 0.5, ("b", 1): 0.8})), "b").label == "b"


def test_labels():
    assert label_of({"x.method": {"name": "lora", "rank": 8}, "x.rate": 0.1}) == "lora, rank 8, rate 0.1"
    assert label_of({"x.rate": None}) == "rate default"
