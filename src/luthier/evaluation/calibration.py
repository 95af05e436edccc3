"""How far a classifier's confidence is from its accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from luthier.evaluation.counted import Statistic

Binning = Literal["equal_width", "equal_mass"]


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram; `low` is outside it and `high` inside."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability_bins(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 10, binning: Binning = "equal_width"
) -> list[Bin]:
    """Mean confidence and accuracy by confidence.

    Args:
        confidence: (N,) largest class probability of each row.
        correct: (N,) whether that class is right.
        bins: how many bins; (low, high] each, the first one with 0.
        binning: bins of equal width, or of equal numbers of rows.

    Returns:
        The bins that hold rows.
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    edges = np.linspace(0, 1, bins + 1)
    if binning == "equal_mass":
        edges = np.quantile(confidence, edges)
        edges[0], edges[-1] = 0.0, 1.0
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        inside = index == number
        if inside.any():
            found.append(
                Bin(
                    float(edges[number]),
                    float(edges[number + 1]),
                    int(inside.sum()),
                    float(confidence[inside].mean()),
                    float(correct[inside].mean()),
                )
            )
    return found


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 10, binning: Binning = "equal_width"
) -> float:
    """ECE = sum_k (n_k / N) |accuracy_k - confidence_k| over the bins of `reliability_bins`.

    Raises:
        ValueError: there are no rows.
    """
    if len(confidence) == 0:
        raise ValueError("calibration needs at least one row")
    found = reliability_bins(confidence, correct, bins, binning)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in found) / len(confidence)


def error_of_draws(confidence: np.ndarray, correct: np.ndarray, bins: int, binning: Binning) -> Statistic:
    """`expected_calibration_error` of many draws of the N rows at once, for `luthier.evaluation.resampling`."""
    order = np.argsort(confidence, kind="stable")
    confidence, correct = np.asarray(confidence, float)[order], np.asarray(correct, float)[order]
    gaps = correct - confidence
    edges = np.linspace(0, 1, bins + 1)[1:-1]

    def statistic(counts: np.ndarray) -> np.ndarray:
        counts = counts[:, order]
        summed = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts * gaps, axis=1)], axis=1)
        if binning == "equal_width":
            ends = np.broadcast_to(np.searchsorted(confidence, edges, side="right"), (len(counts), bins - 1))
        else:
            drawn = np.stack([np.repeat(confidence, one.astype(int)) for one in counts])
            cuts = np.quantile(drawn, np.linspace(0, 1, bins + 1)[1:-1], axis=1).T
            ends = np.searchsorted(confidence, cuts, side="right")
        all_ends = np.pad(ends, ((0, 0), (1, 1)), constant_values=(0, len(confidence)))
        within = np.diff(np.take_along_axis(summed, all_ends, axis=1), axis=1)
        errors: np.ndarray = np.abs(within).sum(axis=1) / counts.sum(axis=1)
        return errors

    return statistic


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance between the (N, C) probabilities and the one-hot labels (N,)."""
    one_hot = np.eye(probabilities.shape[1])[np.asarray(labels, int)]
    return float(((probabilities - one_hot) ** 2).sum(axis=1).mean())
