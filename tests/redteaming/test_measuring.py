"""What is measured and told: what nobody could score is in no rate, and is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.generation.records import write_records
from luthier.models.settings import ModelSettings
from luthier.redteaming.loop import MartLoop
from luthier.redteaming.measuring import helpfulness_summary, reduction, safety_summary
from luthier.redteaming.reporting import scores_of, sections
from luthier.redteaming.result import HELD_OUT, MartResult, Round
from luthier.redteaming.selection import should_stop
from tests.redteaming.conftest import loop_settings


def answers(*texts: str, cut_off: bool = False) -> list[dict[str, Any]]:
    return [
        {"id": f"a{i}", "prompt": f"p{i}", "text": text, "category": f"c{i % 2}", "cut_off": cut_off}
        for i, text in enumerate(texts)
    ]


def scores(*values: float | None, role: str = "evaluation_safety") -> list[dict[str, Any]]:
    status = {True: "truncated", False: "ok"}
    return [
        {"id": f"a{i}", "prompt": f"p{i}", role: {"score": one, "status": status[one is None], "version": "v"}}
        for i, one in enumerate(values)
    ]


def left(folder: Path, found: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    write_records(folder / "held-out-scores.jsonl", found)
    return folder


def test_a_target_whose_answers_nobody_can_score_has_not_become_safe(tmp_path):
    before, after = (
        left(tmp_path / "0", scores(0.1, 0.9, 0.2, 0.8)),
        left(tmp_path / "1", scores(None, None, None, None)),
    )
    found = reduction(before, after)
    assert (found["reduction"], found["difference"], found["reduction_interval"]) == (None, None, None)
    assert (found["prompts"], found["scored_before"], found["scored_after"]) == (4, 4, 0)
    some = reduction(before, left(tmp_path / "2", scores(0.9, None, 0.1, 0.9)))
    assert some["reduction"] == pytest.approx((1 / 2 - 1 / 3) / (1 / 2))
    assert (some["scored_before"], some["scored_after"]) == (4, 3)


def test_empty_answers_are_no_answers_that_help():
    found = helpfulness_summary(
        answers("I can't.", "", " ", "Gladly."), scores(*[None] * 4, role="evaluation_helpfulness")
    )
    assert (found["refusals"], found["empty"], found["refusal_rate"]) == (1, 2, 0.5)
    nothing = helpfulness_summary(answers("", ""), scores(None, None, role="evaluation_helpfulness"))
    assert (nothing["refusal_rate"], nothing["refusal_interval"]) == (None, [0.0, 1.0])


def result_of(tmp_path: Path, *rounds: tuple[float | None, ...], facts: dict[str, Any] | None = None) -> MartResult:
    """What a loop leaves that measured answers of these scores before and after its rounds."""
    model = ModelSettings(reference="x")
    result = MartResult(model, model, seeds={"seeds": 4, "held_out": 4, "near_duplicates": 0})
    result.judges = {"reports": {"safety": None}, "versions": {"safety": "rules x"}, "from_review": 0}
    for number, values in enumerate(rounds):
        result.measured[number] = {HELD_OUT: safety_summary(answers(*["a word"] * len(values)), scores(*values))}
        result.folders[number] = left(tmp_path / str(number), scores(*values))
    if facts is not None:
        result.rounds = [Round(1, facts, model, model, [])]
    return result


FACTS = {
    "number": 1,
    "parents": 4,
    "written": 4,
    "dropped": {},
    "asked": 4,
    "answers": 16,
    "unscored": 0,
    "labelled": 3,
}
FACTS |= {
    "vetoed": 0,
    "violations": 4,
    "violations_of": 16,
    "attack_rate": 1.0,
    "attacks": 4,
    "broken": 4,
    "learned": 2,
}
FACTS |= {"diversity": dict.fromkeys(("distinct_1", "distinct_2", "spread", "categories", "opening"), 0.5)}
FACTS["diversity"] |= {"prompts": 4, "meaning": None}


def shown(tmp_path: Path, prompts: Path, *rounds: tuple[float | None, ...], **more: Any) -> dict[str, Any]:
    settings = MartLoop.settings_of(loop_settings(prompts))
    return {one.title: one for one in sections(settings, result_of(tmp_path, *rounds, **more))}


def test_a_category_that_nobody_scored_is_no_safe_one(tmp_path, prompts):
    found = shown(tmp_path, prompts, (0.1, None, 0.2, None), (0.9, None, 0.1, 0.9))
    part = found["Violations by category and round"]
    assert (part.plot.rows, part.plot.values) == (["c0"], [[1.0, 0.5]])
    assert "Left out, since no answer was scored at some time: c1." in part.text


def test_where_nothing_was_scored_nothing_is_drawn(tmp_path, prompts):
    found = shown(tmp_path, prompts, (None, None), (None, None), facts={**FACTS, "violations_of": 0})
    assert not {"Violations over the rounds", "Violations by category and round"} & set(found)
    assert [row[1:4] for row in found["Violations by round"].table.rows] == [[None, "0.0% to 100.0%", "0 of 0"]] * 2


def test_the_success_of_attacks_is_of_answers_however_many_a_prompt_has(tmp_path, prompts):
    """4 of 16 answers were unsafe, one to each of 4 prompts: with one answer a prompt about a quarter had been."""
    result = result_of(tmp_path, (0.1, 0.9), (0.9, 0.9), facts=FACTS)
    assert scores_of(result)["attacks/success_round_1"] == 0.25
    assert (
        "3 answers have a label of people"
        in {one.title: one for one in sections(MartLoop.settings_of(loop_settings(prompts)), result)}[
            "What each round made"
        ].text
    )


def test_a_loop_whose_answers_nobody_could_score_says_so():
    assert "could be scored" in should_stop(None, 0, below_rate=0.1, below_attacks=1)
    assert should_stop(None, 0, below_rate=0.1, below_attacks=0) == ""
