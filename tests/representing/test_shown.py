"""A source task that learned nothing is marked."""

import pytest

from luthier.representing.shown import nothing_learned


def metrics(accuracy: float, labels: dict[str, int], primary: str = "validation/accuracy") -> dict:
    ran = {"data": {"validation": {"labels": labels}}}
    return {"primary": primary, "scores": {primary: accuracy}, "details": {"ran": ran}}


@pytest.mark.parametrize(
    ("accuracy", "labels", "idle"),
    [
        (0.52, {"a": 50, "b": 50}, True),
        (0.75, {"a": 50, "b": 50}, False),
        (0.75, {"a": 70, "b": 30}, True),  # always `a` gives 0.7
        (0.75, {"a": 700, "b": 300}, False),
        (0.9, {}, False),
    ],
)
def test_the_commonest_label_is_the_measure(accuracy: float, labels: dict[str, int], idle: bool):
    assert bool(nothing_learned(metrics(accuracy, labels))) == idle


def test_another_main_score_says_nothing():
    assert nothing_learned(metrics(0.0, {"a": 50, "b": 50}, "validation/spearman")) == ""


def test_it_says_what_it_was_measured_by():
    assert nothing_learned(metrics(0.5, {"a": 60, "b": 40})) == (
        "accuracy 0.500; always the commonest label gives 0.600 of 100 rows"
    )
