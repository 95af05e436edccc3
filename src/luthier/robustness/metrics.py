"""Scores of the robustness report (RoAST, section 5): calibration, anomaly detection, and the aggregates.

Shapes: N rows, C classes. Scores are fractions; AUROC and AUPR come from scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from luthier.evaluation.calibration import Binning, expected_calibration_error
from luthier.evaluation.metrics import percentiles

ACCURACIES = ("accuracy", "shift", "adversarial")
PERSPECTIVES = (*ACCURACIES, "calibration", "anomaly")
BEST = {"accuracy": 1.0, "shift": 1.0, "adversarial": 1.0, "calibration": 0.0, "anomaly": 1.0}
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
FOLDS = 10
Aggregate = Literal["gap_closed", "ratio"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(N, C) logits -> (N, C) probabilities in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Judged:
    """What calibration looks at, one entry a row.

    Attributes:
        confidence: (N,) probability given to the predicted class.
        correct: (N,) whether the prediction is right.
    """

    confidence: np.ndarray
    correct: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


def judge(
    logits: np.ndarray, labels: np.ndarray, *, temperature: float = 1.0, two_way: bool = False, entailment: int = 0
) -> Judged:
    """Predict by the largest logit and compare with the labels.

    Args:
        logits: (N, C).
        labels: (N,) class ids. On a two-way set every label but `entailment` means the same.
        temperature: logits are divided by it.
        two_way: merge all classes but `entailment`, in predictions, labels and confidence alike: a prediction is merged
            after the decision among all classes, and its confidence is the sum over the merged classes.
        entailment: the class that two-way sets keep apart.

    Raises:
        ValueError: there are no rows, or the lengths differ.
    """
    if len(logits) == 0 or len(logits) != len(labels):
        raise ValueError(
            f"{len(logits)} rows of logits and {len(labels)} labels: give one label a row, and at least one row"
        )
    probabilities, labels = softmax(logits, temperature), np.asarray(labels, int)
    predicted = probabilities.argmax(axis=1)
    if not two_way:
        return Judged(probabilities.max(axis=1), predicted == labels)
    entails = probabilities[:, entailment]
    confidence = np.where(predicted == entailment, entails, 1 - entails)
    return Judged(confidence, (predicted == entailment) == (labels == entailment))


def cross_validated_ece(
    judged_at: Callable[[float], Judged],
    *,
    folds: int = FOLDS,
    temperatures: Sequence[float] = TEMPERATURES,
    bins: int = 10,
    binning: Binning = "equal_width",
    seed: int = 0,
    release_compatible: bool = False,
) -> tuple[float, list[float]]:
    """ECE with a temperature chosen on one fold and scored on the others, averaged over folds (section 5).

    Args:
        judged_at: temperature -> judgement of all rows.
        release_compatible: use the *index* of the chosen temperature as the temperature, as the released code does
            (section 8, item 3); index 0 divides by zero there, which leaves every bin empty and scores 0.

    Returns:
        The error, and the temperature used on each fold.

    Raises:
        ValueError: there are fewer rows than folds.
    """
    cached = {t: judged_at(t) for t in temperatures}
    rows = len(cached[temperatures[0]].correct)
    if rows < folds:
        raise ValueError(f"{rows} rows can't be cut into {folds} folds")
    errors, used = [], []
    for fold in np.array_split(np.random.default_rng(seed).permutation(rows), folds):
        rest = np.setdiff1d(np.arange(rows), fold)
        on_fold = [_ece_of(cached[t], fold, bins, binning) for t in temperatures]
        index = int(np.argmin(on_fold))
        if release_compatible:
            used.append(float(index))
            errors.append(0.0 if index == 0 else _ece_of(judged_at(float(index)), rest, bins, binning))
        else:
            used.append(float(temperatures[index]))
            errors.append(_ece_of(cached[temperatures[index]], rest, bins, binning))
    return float(np.mean(errors)), used


def _ece_of(judged: Judged, rows: np.ndarray, bins: int, binning: Binning) -> float:
    return expected_calibration_error(judged.confidence[rows], judged.correct[rows], bins, binning)


@dataclass(frozen=True)
class Anomaly:
    """How well low confidence finds rows from elsewhere.

    Attributes:
        auroc: area under the ROC curve; 0.5 is chance.
        aupr: average precision; chance is the share of anomalies.
        fpr95: share of rows from inside that score at or above the 5th percentile of the anomalies; all of them where
            all rows score the same.
    """

    auroc: float
    aupr: float
    fpr95: float


def anomaly_scores(inside: np.ndarray, outside: np.ndarray) -> Anomaly:
    """All three anomaly scores; the anomaly score of a row is minus its confidence.

    Args:
        inside: (N,) largest probability of each row that belongs to the task.
        outside: (M,) the same for rows that don't.

    Raises:
        ValueError: one of them is empty.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    inside, outside = np.asarray(inside, float), np.asarray(outside, float)
    if inside.ndim != 1 or outside.ndim != 1 or not len(inside) or not len(outside):
        raise ValueError("anomaly scores need the confidences of at least one row inside and one outside, as vectors")
    is_anomaly = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    score = -np.r_[inside, outside]
    return Anomaly(
        auroc=float(roc_auc_score(is_anomaly, score)),
        aupr=float(average_precision_score(is_anomaly, score)),
        fpr95=float((-inside >= np.percentile(-outside, 5)).mean()),
    )


def anomaly_auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the ROC curve of minus the confidence, with rows from outside as positives.

    Args:
        inside: (N,) largest probability of each row that belongs to the task.
        outside: (M,) the same for rows that don't.

    Raises:
        ValueError: one of them is empty.
    """
    return anomaly_scores(inside, outside).auroc


def aggregate_improvement(
    scores: Mapping[str, float], vanilla: Mapping[str, float], form: Aggregate = "gap_closed"
) -> float:
    """Mean relative improvement over vanilla fine-tuning, as a fraction (section 5).

    The two forms differ by more than a factor of 2 on the same numbers: never report one without its name.

    Args:
        scores, vanilla: the perspectives to average over, as fractions; `calibration` is an error.
        form: `gap_closed` is (a - v) / (best - v), with best 1, or 0 for calibration; `ratio` is (a - v) / v, with the
            sign turned for calibration.

    Raises:
        ValueError: the perspectives differ or are unknown, or vanilla leaves nothing to improve or to divide by.
    """
    if not scores or set(scores) != set(vanilla) or set(scores) - set(BEST):
        raise ValueError(
            f"both need the same perspectives out of {', '.join(BEST)}; got {sorted(scores)} and {sorted(vanilla)}"
        )
    gains = []
    for name, score in scores.items():
        before = vanilla[name]
        base = BEST[name] - before if form == "gap_closed" else before * (-1 if BEST[name] == 0 else 1)
        if base == 0:
            raise ValueError(f"{form} is not defined for {name}: vanilla scores {before}")
        gains.append((score - before) / base)
    return float(np.mean(gains))


def average_rank(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over the perspectives of each method's rank among all methods, 1 the best; ties share their mean rank.

    Args:
        table: method -> perspective -> score.
    """
    from scipy.stats import rankdata

    methods = list(table)
    names = [p for p in PERSPECTIVES if all(p in table[m] for m in methods)]
    if not names:
        raise ValueError("the methods share no perspective")
    columns = [[table[m][p] * (1 if BEST[p] == 0 else -1) for m in methods] for p in names]
    ranks = np.mean([rankdata(column) for column in columns], axis=0)
    return {m: float(r) for m, r in zip(methods, ranks, strict=True)}


@dataclass(frozen=True)
class Resampled:
    """A score that can be computed on redrawn rows.

    Attributes:
        score: an array of row indices for each of `groups` -> score.
        groups: name of each group of rows, and how many there are.
    """

    score: Callable[..., float]
    groups: tuple[tuple[str, int], ...]


def mean_interval(
    scores: Sequence[Resampled],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    centre: float | None = None,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the plain mean of several sets' scores.

    Rows are redrawn within each group. Groups of the same name and size are the same rows and are redrawn once for all
    scores on them: what scores have in common would be averaged away otherwise.

    Args:
        scores: of the sets; a group of one row has no interval.
        centre: see `luthier.evaluation.metrics.percentiles`.
    """
    groups = dict.fromkeys(group for score in scores for group in score.groups)
    if not scores or any(rows < 2 for _, rows in groups):
        return None
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        drawn = {group: generator.integers(0, group[1], group[1]) for group in groups}
        found.append(float(np.mean([s.score(*(drawn[group] for group in s.groups)) for s in scores])))
    return percentiles(found, level, centre)
