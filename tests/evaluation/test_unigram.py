"""The unigram baseline of a language model against a count by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from luthier.data.schemas import IGNORED
from luthier.evaluation.prediction import Predictions
from luthier.evaluation.scoring import task_result
from luthier.evaluation.unigram import log_shares, predicted_tokens

TRAIN = [[1, 1, 2], [IGNORED, 1, 3]]


def test_shares_are_counted_with_one_more_for_every_token() -> None:
    assert np.exp(log_shares(TRAIN, 5)) == pytest.approx(np.array([1, 4, 2, 2, 1]) / 10)


@pytest.mark.parametrize(("shifted", "items"), [(True, [2, 1]), (False, [2, 2])])
def test_the_likelihood_is_over_the_labels_that_the_model_was_scored_on(shifted: bool, items: list[int]) -> None:
    rows: Any = {"labels": [[IGNORED, 1, 4], [2, 3]]}
    model = Predictions("plain_text", [None] * 2, [None] * 2, np.arange(2), np.ones(2), np.array(items))
    found = predicted_tokens(log_shares(TRAIN, 5), rows, model, shifted=shifted)
    assert found.items.tolist() == items
    assert found.nll[0] == pytest.approx(-math.log(0.4) - math.log(0.1))


def test_a_model_is_held_against_it_by_perplexity_and_loss() -> None:
    data: Any = SimpleNamespace(splits={"test": None}, labels=[], metrics=("perplexity",), form=None)
    items = np.full(20, 5)
    model = Predictions("plain_text", [None] * 20, [None] * 20, np.arange(20), 5 * np.linspace(1, 2, 20), items)
    worse = Predictions("plain_text", [None] * 20, [None] * 20, np.arange(20), 5 * np.linspace(2, 3, 20), items)
    good, bad = (task_result(a, data, "test", None, unigram=b) for a, b in ((model, worse), (worse, model)))
    assert good.baselines["perplexity"].score == pytest.approx(math.exp(2.5))
    assert good.baselines["perplexity"].better
    assert good.marks == []
    assert bad.marks == ["not shown to be better than the trivial baseline by perplexity"]
