"""The benchmark of red-teaming: its cells become paired differences by seed and prompt."""

from __future__ import annotations

import mart
import pytest


def cell(arm: str, seed: int, before: str, after: str, **more: float) -> dict:
    entry = {"cell": {"arm": arm, "seed": seed}, "before": before, "after": after, "wall_seconds": 60.0}
    return {**entry, "helpful_helpfulness_before": 0.5, "helpful_helpfulness": 0.5, "warnings": [], **more}


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
    assert "seeds_only" not in found


def test_findings_have_a_verdict_and_the_main_ones_are_corrected():
    lines = {one.claim.text: one for one in mart.findings(CELLS)}
    assert len(lines) == 3
    assert lines[mart.CLAIMS["violation"].text].verdict
    assert lines[mart.CLAIMS["one_round"].text].level == pytest.approx(0.95)
    main = [lines[mart.CLAIMS[name].text].level for name in ("violation", "helpfulness")]
    assert min(main) == pytest.approx(0.95)
    assert max(main) == pytest.approx(0.975)


def test_relevance_pairs_every_instruction_with_its_own_response_and_with_another():
    import random

    pairs = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(5)]
    rows = list(mart.relevance(pairs, random.Random(0)))
    assert len(rows) == 10
    assert all((row["label"] == "1") == (row["prompt"][1:] == row["response"][1:]) for row in rows)
