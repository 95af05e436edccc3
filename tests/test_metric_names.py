"""Directions of scores and costs, by their names."""

import pytest

from luthier.evaluation.metrics import METRICS
from luthier.metric_names import higher_is_better

HIGHER = "test/accuracy glue/mcc auroc aupr tokens_per_second validation/question_exact_match"
LOWER = "validation/loss perplexity test/expected_calibration_error ece seconds brier_score fpr95 peak_memory_bytes"


@pytest.mark.parametrize("name", HIGHER.split())
def test_higher_is_better(name: str):
    assert higher_is_better(name)


@pytest.mark.parametrize("name", LOWER.split())
def test_lower_is_better(name: str):
    assert not higher_is_better(name)


def test_of_the_task_metrics_only_the_error_is_better_when_low():
    assert [name for name in METRICS if not higher_is_better(name)] == ["mean_squared_error"]
