"""Directions of scores and costs, by their names."""

import math

import pytest

from luthier.evaluation.metrics import METRICS
from luthier.metric_names import higher_is_better, range_of

HIGHER = "test/accuracy glue/mcc auroc aupr tokens_per_second validation/question_exact_match"
LOWER = "validation/loss perplexity test/expected_calibration_error ece seconds brier_score fpr95 peak_memory_bytes"


@pytest.mark.parametrize("name", HIGHER.split())
def test_higher_is_better(name: str):
    assert higher_is_better(name)


# Of lm-evaluation-harness.
LOWER += " test/wikitext/word_perplexity test/wikitext/byte_perplexity test/wikitext/bits_per_byte test/wmt16-ro-en/ter"
HIGHER_OF_HARNESS = (
    "test/arc_easy/acc_norm test/wmt16-ro-en/bleu test/wmt16-ro-en/chrf test/cola/mcc test/gsm8k/exact_match"
)


@pytest.mark.parametrize("name", HIGHER_OF_HARNESS.split())
def test_tasks_of_the_harness_are_not_taken_for_errors(name: str):
    assert higher_is_better(name)


@pytest.mark.parametrize("name", LOWER.split())
def test_lower_is_better(name: str):
    assert not higher_is_better(name)


def test_of_the_task_metrics_only_the_error_is_better_when_low():
    assert [name for name in METRICS if not higher_is_better(name)] == ["mean_squared_error"]


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("test/accuracy", 0, 1),
        ("validation/question_exact_match", 0, 1),
        ("test/matthews_correlation", -1, 1),
        ("test/mean_squared_error", 0, math.inf),
        ("test/perplexity", 0, math.inf),
        ("test/expected_calibration_error", 0, 1),
        ("test/elo", -math.inf, math.inf),
    ],
)
def test_what_a_score_can_be(name: str, least: float, most: float):
    assert range_of(name) == (least, most)


def test_every_task_metric_has_a_range_that_holds_its_best_value():
    assert {name: range_of(name)[1] for name in METRICS if name != "mean_squared_error"} == dict.fromkeys(
        set(METRICS) - {"mean_squared_error"}, 1
    )
