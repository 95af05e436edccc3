from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from luthier.evaluation.metrics import percentiles
from luthier.robustness import aggregate_improvement, anomaly_auroc, average_rank, expected_calibration_error
from luthier.robustness.metrics import Resampled, anomaly_scores, cross_validated_ece, judge, mean_interval, softmax
from luthier.robustness.report import _auroc_on

RECALLED = {
    "vanilla": {"accuracy": 0.9629, "shift": 0.9179, "adversarial": 0.6630, "calibration": 0.0711, "anomaly": 0.8672},
    "roast": {"accuracy": 0.9687, "shift": 0.9238, "adversarial": 0.6815, "calibration": 0.0502, "anomaly": 0.9093},
}


def rows(count: int = 300, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, classes)) * 2
    return logits, generator.integers(0, classes, count)


def test_calibration_error_by_hand_with_right_closed_bins() -> None:
    confidence, correct = np.array([0.5, 0.51, 0.6, 0.95]), np.array([True, False, True, True])
    wanted = (1 * abs(1 - 0.5) + 2 * abs(0.5 - 0.555) + 1 * abs(1 - 0.95)) / 4
    assert expected_calibration_error(confidence, correct) == pytest.approx(wanted)
    assert expected_calibration_error(confidence, correct, 1, "equal_mass") == pytest.approx(0.75 - 0.64)


def test_anomaly_scores_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    inside, outside = generator.beta(5, 2, 4000), generator.beta(3, 3, 3000)
    truth, score = np.r_[np.zeros(4000), np.ones(3000)], -np.r_[inside, outside]
    found = anomaly_scores(inside, outside)
    assert found.auroc == anomaly_auroc(inside, outside) == pytest.approx(roc_auc_score(truth, score))
    assert found.aupr == pytest.approx(average_precision_score(truth, score))
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(fpr[np.searchsorted(tpr, 0.95)], abs=0.02)
    assert anomaly_auroc(np.ones(3), np.zeros(2)) == 1.0
    alike = anomaly_scores(np.ones(3), np.ones(2))
    assert (alike.auroc, alike.fpr95) == (0.5, 1.0)
    with pytest.raises(ValueError):
        anomaly_auroc(np.ones(0), np.ones(2))


def test_two_way_sets_merge_predictions_labels_and_confidence() -> None:
    probabilities = np.array([[0.2, 0.45, 0.35], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]])
    labels = np.array([2, 2, 0, 2])
    found = judge(np.log(probabilities), labels, two_way=True)
    assert found.correct.tolist() == [True, False, False, True]
    assert found.confidence.tolist() == pytest.approx([0.8, 0.4, 0.9, 0.9])
    plain = judge(np.log(probabilities), labels)
    assert plain.correct.tolist() == [False, False, False, False]
    assert plain.confidence.tolist() == pytest.approx([0.45, 0.4, 0.8, 0.8])


def test_temperature_softens() -> None:
    logits, labels = rows()
    assert judge(logits, labels, temperature=4.0).confidence.max() < judge(logits, labels).confidence.max()
    np.testing.assert_allclose(softmax(logits, 2.0), softmax(logits / 2.0))


def test_cross_validated_temperature_is_chosen_on_the_fold_and_scored_on_the_rest() -> None:
    logits, labels = rows(200)
    temperatures = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    error, used = cross_validated_ece(lambda t: judge(logits, labels, temperature=t), seed=3)
    errors = []
    for fold, chosen in zip(np.array_split(np.random.default_rng(3).permutation(200), 10), used, strict=True):

        def ece(t: float, i: np.ndarray) -> float:
            j = judge(logits[i], labels[i], temperature=t)
            return expected_calibration_error(j.confidence, j.correct)

        assert chosen == min(temperatures, key=lambda t: ece(t, fold))
        errors.append(ece(chosen, np.setdiff1d(np.arange(200), fold)))
    assert error == pytest.approx(np.mean(errors))


def test_the_releases_error_uses_the_index_and_scores_zero_for_the_first() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 400)
    flat = np.stack([1.0 - 2 * labels, 2 * labels - 1.0], axis=1) * 0.3
    error, used = cross_validated_ece(lambda t: judge(flat, labels, temperature=t), release_compatible=True)
    assert used == [0.0] * 10
    assert error == 0.0
    correct_error, correct_used = cross_validated_ece(lambda t: judge(flat, labels, temperature=t))
    assert correct_used == [0.25] * 10
    assert correct_error > 0.05


def test_aggregates_on_the_pages_rows() -> None:
    gap = aggregate_improvement(RECALLED["roast"], RECALLED["vanilla"])
    ratio = aggregate_improvement(RECALLED["roast"], RECALLED["vanilla"], form="ratio")
    assert gap == pytest.approx(0.179, abs=5e-4)
    assert ratio == pytest.approx(0.077, abs=5e-4)
    with pytest.raises(ValueError, match="perspectives"):
        aggregate_improvement({"accuracy": 1.0}, RECALLED["vanilla"])
    with pytest.raises(ValueError, match="not defined"):
        aggregate_improvement({"accuracy": 0.9}, {"accuracy": 1.0})


def test_ranks_put_a_low_calibration_error_first_and_share_ties() -> None:
    table = {
        "a": {"accuracy": 0.9, "calibration": 0.1},
        "b": {"accuracy": 0.9, "calibration": 0.2},
        "c": {"accuracy": 0.8, "calibration": 0.05},
    }
    assert average_rank(table) == {"a": (1.5 + 2) / 2, "b": (1.5 + 3) / 2, "c": (3 + 1) / 2}


def test_interval_of_a_mean_covers_it_and_shrinks_with_rows() -> None:
    generator = np.random.default_rng(0)

    def width(count: int) -> float:
        hits = generator.random(count) < 0.7
        low, high = mean_interval([Resampled(lambda i: float(hits[i].mean()), (("a", count),))] * 2, draws=300)
        assert low <= hits.mean() <= high
        return high - low

    assert width(2000) < width(50)
    assert mean_interval([Resampled(lambda i: 1.0, (("a", 1),))]) is None


def test_scores_on_the_same_rows_are_redrawn_together() -> None:
    hits = np.random.default_rng(0).random(100) < 0.7

    def width(*names: str) -> float:
        scores = [Resampled(lambda i: float(hits[i].mean()), ((name, 100),)) for name in names]
        low, high = mean_interval(scores, draws=2000)
        return high - low

    assert width("a", "a", "a", "a") == width("a")
    assert width("a", "b", "c", "d") == pytest.approx(width("a") / 2, rel=0.1)


def test_intervals_of_areas_that_share_their_inside_rows_cover_the_true_area() -> None:
    covered = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        inside = draw.normal(1.0, 1.0, 60)
        areas = [Resampled(_auroc_on(inside, draw.normal(0.0, 1.0, 400)), (("in", 60), (n, 400))) for n in "abcd"]
        low, high = mean_interval(areas, draws=200, seed=seed)
        covered += low <= 0.7602 <= high  # P(N(1, 1) > N(0, 1))
    assert covered >= 34


def test_the_interval_of_a_calibration_error_holds_the_error() -> None:
    for seed in range(20):
        draw = np.random.default_rng(seed)
        confidence = draw.uniform(0.5, 1.0, 200)
        correct = draw.random(200) < confidence
        error = expected_calibration_error(confidence, correct)
        drawn = [expected_calibration_error(confidence[i], correct[i]) for i in draw.integers(0, 200, (200, 200))]
        low, high = percentiles(drawn, centre=error)
        assert 0.0 <= low <= error <= high


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="label"):
        judge(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(ValueError, match="folds"):
        cross_validated_ece(lambda t: judge(*rows(5), temperature=t))
