"""Metrics against hand-counted values; calibration against its definition."""

import numpy as np
import pytest

from luthier.data.schemas import SCHEMAS
from luthier.errors import RecipeError
from luthier.evaluation.calibration import brier_score, error_of_draws, expected_calibration_error, reliability_bins
from luthier.evaluation.metrics import answer_f1, bootstrap_interval, exact_match, percentiles, score
from luthier.evaluation.resampling import resampled

GOLD, GUESS = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 0, 0, 1, 1])


def test_classification_scores_by_hand():
    found = score(("accuracy", "f1", "macro_f1", "matthews_correlation"), GOLD, GUESS)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["matthews_correlation"] == pytest.approx((2 * 2 - 1 * 1) / 9)


def test_correlations_and_constant_guesses():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert score(("pearson", "spearman"), x, x**3)["spearman"] == pytest.approx(1)
    assert score(("pearson",), x, np.zeros(4))["pearson"] == 0.0


def test_entities_count_only_whole():
    gold = [["B-PER", "I-PER", "O", "B-LOC"]]
    assert score(("seqeval_f1",), gold, [["B-PER", "O", "O", "B-LOC"]])["seqeval_f1"] == pytest.approx(0.5)


def test_tags_of_bilou_are_those_of_bioes():
    gold, guess = [["B-P", "L-P", "U-P", "U-P"]], [["B-P", "L-P", "U-P", "O"]]
    assert score(("seqeval_f1",), gold, guess)["seqeval_f1"] == pytest.approx(2 * 2 / 5)


@pytest.mark.parametrize(
    ("labels", "metric"),
    [
        (["O", "B-PER", "I-PER"], "seqeval_f1"),
        (["O", "U-PER", "L-PER", "S-PER", "E-PER"], "seqeval_f1"),
        (["B", "I", "O"], "seqeval_f1"),
        (["NOUN", "VERB", "X"], "word_accuracy"),
        (["0", "1", "2"], "word_accuracy"),
        (["IN", "NN", "O"], "word_accuracy"),
    ],
)
def test_words_are_scored_by_entities_where_their_labels_mark_some(labels, metric):
    assert SCHEMAS["token_labels"].metrics_for(labels) == (metric,)
    # seqeval would join the first two, and take one for the other.
    rows = [["CCONJ", "CCONJ", "NOUN"], ["X"]]
    assert score(("word_accuracy",), rows, [["SCONJ", "CCONJ", "NOUN"], ["X"]])["word_accuracy"] == 0.75


def test_answers_by_the_squad_rules():
    assert exact_match([["The Cat!"], ["a dog"]], ["cat", "cat"]) == 0.5
    assert answer_f1([["the quick fox", "fox"]], ["quick brown fox"]) == pytest.approx(2 * 2 / 5)
    assert answer_f1([[""]], [""]) == 1.0
    assert answer_f1([[], ["cat"]], ["", "cat"]) == exact_match([[], ["cat"]], ["", "cat"]) == 0.5


def test_unknown_metric_is_named():
    with pytest.raises(RecipeError, match="acuracy"):
        score(("acuracy",), GOLD, GUESS)


def test_bootstrap_covers_the_score_and_needs_two_rows():
    hits = np.array([1.0] * 70 + [0.0] * 30)
    low, high = bootstrap_interval(lambda i: hits[i].mean(), 100)
    assert low < 0.7 < high
    assert 0.15 < high - low < 0.2
    assert bootstrap_interval(lambda i: 1.0, 1) is None


def test_calibration_error_is_its_definition():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 500)
    correct = rng.uniform(size=500) < confidence**2
    expected = 0.0
    for k in range(10):
        inside = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_edges_belong_to_the_bin_below_and_equal_mass_bins_are_equal():
    assert [b.high for b in reliability_bins(np.array([0.5, 0.51]), np.array([1, 0]))] == [
        0.5,
        pytest.approx(0.6),
    ]
    counts = [b.count for b in reliability_bins(np.linspace(0.1, 0.9, 100), np.ones(100), 5, "equal_mass")]
    assert sum(counts) == 100
    assert max(counts) - min(counts) <= 2


def test_brier_score_of_a_sure_and_wrong_model():
    assert brier_score(np.array([[1.0, 0.0]]), np.array([1])) == 2.0


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_calibration_errors_of_many_draws_are_those_of_the_loop(binning):
    rng = np.random.default_rng(3)
    confidence = np.round(rng.uniform(0.3, 1, 80), 2)  # with ties, and values on the edges of bins
    correct = rng.uniform(size=80) < confidence**2
    error = expected_calibration_error(confidence, correct, 10, binning)
    expected = bootstrap_interval(
        lambda i: expected_calibration_error(confidence[i], correct[i], 10, binning), 80, draws=200, centre=error
    )
    statistic = {"error": error_of_draws(confidence, correct, 10, binning)}
    found = percentiles(resampled(statistic, 80, draws=200, seed=0)["error"], centre=error)
    assert found == pytest.approx(expected, abs=1e-12)
