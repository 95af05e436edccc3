from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from luthier.report.sections import Section
from luthier.report.text import interval_text
from luthier.robustness import EvaluationSet, RobustnessReport
from luthier.robustness.metrics import aggregate_improvement, anomaly_scores, judge, softmax
from luthier.robustness.report import compare


def logits_for(texts: Any) -> np.ndarray:
    """A classifier that reads its logits off the text."""
    return np.array([[float(x) for x in text.split()] for text in texts])


def made(name: str, seed: int, *, labelled: bool = True, two_way: bool = False, sharp: float = 2.0) -> EvaluationSet:
    generator = np.random.default_rng(seed)
    texts = [" ".join(f"{x:.3f}" for x in row) for row in generator.normal(size=(60, 3)) * sharp]
    labels = logits_for(texts).argmax(axis=1)
    labels[:15] = (labels[:15] + 1) % 3
    return EvaluationSet(name, texts, labels if labelled else None, two_way)


SETS: dict[str, Any] = {
    "in_distribution": [made("dev", 0)],
    "shift": [made("far", 1), made("two-way", 2, two_way=True)],
    "adversarial": [made("attacked", 3)],
    "anomalies": [made("elsewhere", 4, labelled=False, sharp=0.5), made("nowhere", 5, labelled=False)],
}


def test_five_scores_are_plain_means_over_their_sets() -> None:
    report = RobustnessReport(**SETS, draws=50).run(logits_for)
    judged = {
        s.name: judge(logits_for(s.texts), s.labels, two_way=s.two_way)
        for group in ("in_distribution", "shift", "adversarial")
        for s in SETS[group]
    }
    found = report["perspectives"]
    assert list(found) == ["accuracy", "shift", "adversarial", "calibration", "anomaly"]
    assert found["accuracy"] == judged["dev"].accuracy == 0.75
    assert found["shift"] == pytest.approx((judged["far"].accuracy + judged["two-way"].accuracy) / 2)
    assert found["calibration"] == pytest.approx(np.mean([r["ece"] for r in report["sets"]]))
    inside = softmax(logits_for(SETS["in_distribution"][0].texts)).max(axis=1)
    areas = [anomaly_scores(inside, softmax(logits_for(s.texts)).max(axis=1)).auroc for s in SETS["anomalies"]]
    assert found["anomaly"] == pytest.approx(np.mean(areas))
    assert areas[0] > 0.7
    for name, (low, high) in report["intervals"].items():
        assert low <= found[name] <= high, name


def test_the_page_shows_sets_weighted_by_their_rows_beside_the_plain_mean() -> None:
    far, near = made("far", 1), made("near", 2)
    few = EvaluationSet("few", far.texts[:10], far.labels[:10])  # all of its labels are wrong
    report = RobustnessReport(in_distribution=[made("dev", 0)], shift=[few, near], draws=0).run(logits_for)
    table = report["sections"][0]["table"]
    shift = dict(zip(table["columns"], table["rows"][1], strict=True))
    assert shift == {"side": "accuracy under distribution shift", "score": 0.375, "sets": 2, "rows": 70} | {
        "over all rows": round(45 / 70, 4)
    }


def test_the_page_shows_intervals_as_everywhere() -> None:
    report = RobustnessReport(**SETS, draws=20).run(logits_for)
    shown = [row[-2] for row in report["sections"][1]["table"]["rows"]]
    assert shown == [interval_text(one.get("accuracy_interval")) for one in report["sets"]]


def test_the_report_is_json_and_its_sections_can_be_drawn() -> None:
    report = json.loads(json.dumps(RobustnessReport(**SETS, draws=20).run(logits_for)))
    plots = [s["plot"] for s in report["sections"]]
    assert [p["kind"] for p in plots] == ["radar", "bars", "bars", *["reliability"] * 4]
    assert list(plots[0]["series"]["this model"]) == list(report["perspectives"])
    assert sum(b["count"] for b in plots[3]["bins"]) == 60
    for section in report["sections"][:4]:
        read = Section.from_json(section)
        assert read.plot.draw(read.title)
        assert read.to_json() == section


def test_the_same_seed_gives_the_same_report_and_each_set_is_scored_once() -> None:
    calls = []

    def counted(texts: Any) -> np.ndarray:
        calls.append(len(texts))
        return logits_for(texts)

    report = RobustnessReport(**SETS, draws=20)
    assert report.run(counted) == RobustnessReport(**SETS, draws=20).run(logits_for)
    assert len(calls) == 6


def test_temperature_modes_are_named_and_differ() -> None:
    found = {
        mode: RobustnessReport(**SETS, draws=0, ece_temperature=mode).run(logits_for)
        for mode in ("none", "cv", "release")
    }
    scores = {mode: r["perspectives"]["calibration"] for mode, r in found.items()}
    assert len(set(scores.values())) == 3
    assert found["cv"]["settings"]["ece_temperature"] == "cv"
    assert len(found["cv"]["sets"][0]["temperatures"]) == 10


def test_a_perspective_without_sets_is_left_out() -> None:
    report = RobustnessReport(in_distribution=SETS["in_distribution"], draws=0).run(logits_for)
    assert list(report["perspectives"]) == ["accuracy", "calibration"]
    assert report["anomalies"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_distribution": []}, "at least one"),
        ({"shift": SETS["in_distribution"]}, "same name"),
        ({"shift": [made("bare", 9, labelled=False)]}, "no labels"),
    ],
)
def test_sets_that_make_no_report(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustnessReport(**SETS | changes)


def test_methods_are_compared_under_both_named_forms() -> None:
    base = RobustnessReport(**SETS, draws=0).run(logits_for)
    better = {"perspectives": {k: v * (0.5 if k == "calibration" else 1.1) for k, v in base["perspectives"].items()}}
    table = compare({"vanilla": base, "better": better})
    one, two = table["rows"]
    before, after = base["perspectives"], better["perspectives"]
    for form in ("gap_closed", "ratio"):
        assert one[form] == 0.0
        assert two[form] == aggregate_improvement(after, before, form) > 0
    assert two["gap_closed"] != two["ratio"]
    assert (one["average_rank"], two["average_rank"]) == (2.0, 1.0)
    assert table["sections"][0]["table"]["columns"][-3:] == ["gap closed", "ratio", "average rank"]
    with pytest.raises(ValueError, match="not judged from the same sides"):
        compare({"vanilla": base, "other": {"perspectives": {"accuracy": 0.5}}})
    perfect = {"perspectives": {"accuracy": 1.0}}
    assert compare({"vanilla": perfect, "other": perfect})["rows"][1]["gap_closed"] is None
    with pytest.raises(ValueError, match="no method"):
        compare({"roast": base})
