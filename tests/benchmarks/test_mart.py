"""The benchmark of red-teaming: its cells become paired differences by seed and prompt."""

from __future__ import annotations

import mart
import pytest


def cell(arm: str, seed: int, before: str, after: str, **more: float) -> dict:
    entry = {"cell": {"arm": arm, "seed": seed}, "before": before, "after": after, "wall_seconds": 60.0}
    helpful = {"helpful_perplexity": 9.0, "helpful_helpfulness": 0.5}
    return {**entry, **helpful, **{f"{name}_before": value for name, value in helpful.items()}, "warnings": [], **more}


CELLS = [
    cell("mart", 1, "1110", "0010"),
    cell("mart", 2, "11-0", "1000"),
    cell("one_round", 1, "1110", "0110"),
    cell("one_round", 2, "11-0", "11-0"),
]


def test_outcomes_are_paired_by_prompt_and_what_was_not_scored_takes_no_side():
    assert mart.outcomes("110-", "01-1") == [1.0, 0.0, 0.0, 0.0]
    found = mart.differences(CELLS)
    assert found["violation"].mean == pytest.approx((0.5 + 0.25) / 2)
    assert found["one_round"].mean == pytest.approx((0.25 + 0.25) / 2)
    assert found["helpfulness"].mean == pytest.approx(mart.MARGIN)
    assert found["judged"].mean == pytest.approx(mart.MARGIN)
    assert "seeds_only" not in found


def test_findings_have_a_verdict_and_the_main_ones_are_corrected():
    lines = {one.claim.text: one for one in mart.findings(CELLS)}
    assert len(lines) == 4
    assert lines[mart.CLAIMS["violation"].text].verdict
    assert lines[mart.CLAIMS["one_round"].text].level == pytest.approx(0.95)
    main = [lines[mart.CLAIMS[name].text].level for name in ("violation", "helpfulness")]
    assert min(main) == pytest.approx(0.95)
    assert max(main) == pytest.approx(0.975)
