"""Intervals, power and verdicts of published claims."""

import json
import math
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from evidence import BEDS, Claim, Differences, Finding, compared, findings_of, levels
from scipy.stats import t as t_distribution
from scipy.stats import ttest_1samp
from summarise import RESULTS, SCRIPTS, findings_in

from luthier.report.intervals import crossed_interval

CLAIM = Claim("A is above B.", "score", 0.02, "a table", "MiniLM")


def drawn(units: int, seeds: int, mean: float = 0.0, between: float = 0.0, seed: int = 0) -> Differences:
    generator = np.random.default_rng(seed)
    found = mean + between * generator.normal(size=(units, 1)) + 0.01 * generator.normal(size=(units, seeds))
    return Differences({str(n): row for n, row in enumerate(found)})


def test_one_unit_has_the_t_interval_of_its_seeds():
    values = [0.01, 0.03, -0.02, 0.04, 0.0]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert Differences({"a": values}).interval() == pytest.approx(tuple(expected))


def test_mixed_model_of_equal_units_is_the_analysis_of_variance():
    """With as many seeds in every unit, restricted likelihood gives the mean squares' estimates."""
    found = drawn(6, 4, 0.02, between=0.03)
    table = np.stack(list(found.units.values()))
    between_squares = 4 * table.mean(axis=1).var(ddof=1)
    error = math.sqrt(between_squares / table.size)
    half = t_distribution.ppf(0.975, 5) * error
    assert found.interval() == pytest.approx((table.mean() - half, table.mean() + half), rel=1e-3)


def test_interval_over_seeds_leaves_units_as_they_are():
    found = drawn(5, 4, 0.02, between=0.2)
    table = np.stack(list(found.units.values()))
    within = table.var(axis=1, ddof=1).mean()
    half = t_distribution.ppf(0.975, 15) * math.sqrt(within / table.size)
    assert found.over_seeds() == pytest.approx((table.mean() - half, table.mean() + half))


def test_rows_are_redrawn_where_they_are_known():
    rows = np.random.default_rng(0).normal(0.1, 1, (4, 50))
    assert Differences({"a": rows}).interval() == crossed_interval(rows)


def test_units_with_and_without_rows_do_not_mix():
    with pytest.raises(ValueError, match="some units"):
        Differences({"a": [0.1, 0.2], "b": [[0.1, 0.2]]})


def test_nothing_repeated_tells_nothing():
    assert Differences({"a": [0.5]}).interval() == (-math.inf, math.inf)
    assert math.isnan(Differences({"a": [0.5]}).detectable())


def test_covers_the_truth():
    inside = 0
    for seed in range(100):
        low, high = drawn(8, 3, 0.02, between=0.01, seed=seed).interval()
        inside += low <= 0.02 <= high
    assert 90 <= inside <= 100


def test_seeds_needed_are_the_fewest_that_see_the_effect():
    found = Differences({"a": [0.01, 0.03, -0.02, 0.04, 0.0]})
    needed = found.seeds_for(0.01)
    assert found.detectable(needed) <= 0.01 < found.detectable(needed - 1)


def test_what_could_be_seen_falls_with_every_seed():
    found = Differences({"a": [-0.05, 0.05, 0.02]})
    seen = [found.detectable(seeds) for seeds in (*range(2, 60), *range(60, 1000, 50))]
    assert seen == sorted(seen, reverse=True)


def test_power_is_reached_by_simulation():
    """Of many sets of as many seeds with the effect that can be seen, four in five have intervals above 0."""
    effect = Differences({"a": [-0.01, 0.0, 0.01]}).detectable(8)
    generator = np.random.default_rng(0)
    samples = generator.normal(effect, 0.01, (2000, 8))
    seen = ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.03)


def test_where_units_differ_more_seeds_may_not_do():
    assert drawn(4, 3, between=0.2).seeds_for(0.01) is None


@pytest.mark.parametrize(
    ("mean", "published", "verdict"),
    [
        (0.02, 0.02, "holds"),
        (0.02, 0.06, "holds: by less than half of the figure"),
        (0.02, None, "holds"),
        (-0.01, 0.02, "does not hold"),
        (0.0, 0.04, "does not hold"),
        (-0.02, None, "does not hold"),
        (0.0, None, "not told"),
    ],
)
def test_verdicts(mean, published, verdict):
    values = np.array([-0.006, 0.0, 0.006, -0.004, 0.004]) + mean
    finding = Finding(replace(CLAIM, published=published), Differences({"a": values}))
    assert finding.verdict == verdict


def test_one_seed_never_tells_however_many_rows_it_has():
    found = Differences({"a": [np.ones(500)]})
    assert found.interval()[0] > 0
    assert Finding(CLAIM, found).verdict == "not told: one seed"


def test_not_told_says_how_many_seeds_would_tell():
    finding = Finding(CLAIM, Differences({"a": [-0.05, 0.05, 0.02]}))
    needed = finding.differences.seeds_for(0.01)
    assert finding.verdict == f"not told: {needed} seeds would tell"


def test_untestable_claims_say_why():
    (finding,) = findings_of([(CLAIM, drawn(1, 3))], why="both arms are at chance")
    assert finding.verdict == "not testable here: both arms are at chance"
    assert finding.line()[2] == ""


def test_holm_stops_at_the_first_comparison_that_fails():
    clear, weak, none = drawn(1, 8, 0.1), drawn(1, 8, 0.009, seed=3), drawn(1, 8, 0.0, seed=5)
    given = levels({"none": none, "clear": clear, "weak": weak})
    assert given["clear"] == pytest.approx(1 - 0.05 / 3)
    assert sorted(given, key=lambda name: list(given).index(name))[0] == "clear"
    assert given["none"] in (1.0, 0.95)


def test_outcomes_of_rows_are_used_where_all_cells_have_them():
    def cell(seed: int, right: str | None) -> dict:
        entry = {"cell": {"seed": seed}, "primary": "accuracy", "test_accuracy": 0.5}
        return entry if right is None else entry | {"test_right": right}

    first, second = [cell(1, "1101"), cell(2, "1111")], [cell(1, "0101"), cell(2, "0101")]
    assert compared({"a": (first, second)}).mean == pytest.approx(0.375)
    assert compared({"a": (first, [cell(1, None), cell(2, None)])}).by_rows is False
    assert compared({"a": (first, [])}) is None


def test_every_stored_result_has_its_place_on_the_page():
    """Those of smaller runs, which stand behind numbers of other pages, are called after their script."""
    stored = {place.stem.removesuffix("_pilot").removesuffix("_quick") for place in RESULTS.glob("*.json")}
    assert stored <= set(SCRIPTS)


@pytest.mark.parametrize("name", [n for n in SCRIPTS if (RESULTS / f"{n}.json").exists()])
def test_claims_of_stored_results(name):
    """Each is about a bed that the page describes, and ends in one of the four verdicts."""
    script = import_module(name)
    cells = list(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf8"))["cells"].values())
    for finding in findings_in(script, cells):
        assert any(bed in finding.claim.bed for bed in BEDS)
        assert finding.verdict.split(":")[0] in ("holds", "does not hold", "not told", "not testable here")
        assert len(finding.line()) == 6


def test_unipelt_against_the_best_part_of_each_set():
    """Pooled over 16 sets and sizes, the stored differences are far below 1 %."""
    cells = list(json.loads((RESULTS / "unipelt.json").read_text(encoding="utf8"))["cells"].values())
    finding = import_module("unipelt").findings(cells)[2]
    assert sum(map(len, finding.differences.units.values())) == 48
    assert finding.differences.mean == pytest.approx(0.00116, abs=1e-5)
    assert finding.differences.interval()[1] < 0.01
