"""Scores of many draws at once against the loop over scikit-learn, scipy and seqeval that they stand for."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error

from luthier.evaluation import resampling
from luthier.evaluation.metrics import METRICS, bootstrap_interval, percentiles, score
from luthier.evaluation.resampling import draw_counts, resampled, statistic_of
from luthier.tasks.running.judged import Judged

ROWS, DRAWS = 60, 200
CLASSES = ("accuracy", "f1", "macro_f1", "matthews_correlation")


def classes(count: int, lowest: int = 0) -> Judged:
    rng = np.random.default_rng(count)
    gold = rng.integers(0, count, ROWS)
    guess = np.where(rng.random(ROWS) < 0.5, gold, rng.integers(lowest, count, ROWS))
    return Judged(gold, guess)


def numbers(ties: bool) -> Judged:
    rng = np.random.default_rng(1)
    gold = rng.normal(size=ROWS)
    guess = (gold + rng.normal(size=ROWS)).astype(np.float32)
    return Judged(np.round(gold), np.round(guess, 1)) if ties else Judged(gold, guess)


def tags() -> Judged:
    rng = np.random.default_rng(2)
    known = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    gold = [[known[i] for i in rng.integers(0, 5, rng.integers(1, 9))] for _ in range(ROWS)]
    guess = [[tag if rng.random() < 0.7 else known[rng.integers(0, 5)] for tag in row] for row in gold]
    return Judged(gold, guess)


def answers() -> Judged:
    rng = np.random.default_rng(3)
    words = ["cat", "the dog", "red house", "a tree by the red house", ""]
    gold = [[words[i] for i in rng.integers(0, 5, 2)] for _ in range(ROWS)]
    return Judged(gold, [words[i] for i in rng.integers(0, 5, ROWS)])


def of_questions() -> Judged:
    rng = np.random.default_rng(4)
    groups = np.unique(rng.integers(0, 25, ROWS), return_inverse=True)[1]
    gold = rng.integers(0, 2, ROWS)
    return Judged(gold, np.where(rng.random(ROWS) < 0.8, gold, 1 - gold), groups)


def correlation(kind: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def score(gold: np.ndarray, guess: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            return float(np.nan_to_num(getattr(stats, kind)(gold, guess).statistic))

    return score


def macro_f1(gold: np.ndarray, guess: np.ndarray) -> float:
    labels = np.setdiff1d(np.union1d(gold, guess), [-1])
    return float(f1_score(gold, guess, labels=labels, average="macro", zero_division=0))


# Scores by the libraries; -1 is none of the labels.
BY_LIBRARIES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": lambda gold, guess: f1_score(gold, guess, labels=[1], average="macro", zero_division=0),
    "macro_f1": macro_f1,
    "matthews_correlation": matthews_corrcoef,
    "pearson": correlation("pearsonr"),
    "spearman": correlation("spearmanr"),
    "mean_squared_error": mean_squared_error,
}
CASES = [
    *((classes(2), name) for name in CLASSES),
    *((classes(7), name) for name in CLASSES),
    *((classes(3, lowest=-1), name) for name in CLASSES),
    *((Judged(classes(2).gold, np.zeros(ROWS, int)), name) for name in CLASSES),
    *((numbers(ties), name) for ties in (False, True) for name in ("pearson", "spearman", "mean_squared_error")),
    *((Judged(numbers(False).gold, np.full(ROWS, 0.1, np.float32)), name) for name in ("pearson", "spearman")),
    (tags(), "seqeval_f1"),
    (tags(), "word_accuracy"),
    *((answers(), name) for name in ("exact_match", "squad_f1")),
    *((of_questions(), name) for name in (*CLASSES, "question_exact_match")),
]


@pytest.mark.parametrize(("judged", "name"), CASES, ids=[f"{n}-{name}" for n, (_, name) in enumerate(CASES)])
def test_an_interval_is_that_of_the_loop(judged: Judged, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_MOST_CELLS", 37 * judged.questions)  # several blocks

    def one(index: np.ndarray) -> float:
        drawn = judged.drawn(index)
        if name in BY_LIBRARIES:
            return float(BY_LIBRARIES[name](drawn.gold, drawn.guess))
        return score((name,), drawn.gold, drawn.guess, drawn.groups)[name]

    expected = bootstrap_interval(one, judged.questions, draws=DRAWS, seed=5)
    statistic = statistic_of(name, judged)
    assert statistic is not None
    found = resampled({name: statistic}, judged.questions, draws=DRAWS, seed=5)[name]
    assert percentiles(found) == pytest.approx(expected, rel=0, abs=1e-12)


def test_every_metric_has_its_statistic() -> None:
    assert resampling._BUILDERS.keys() == METRICS.keys()


def test_scores_of_classes_and_numbers_import_no_library_of_scores() -> None:
    code = (
        "import sys, numpy as np; from luthier.evaluation.metrics import METRICS; "
        f"[METRICS[name](np.array([0, 1, 1]), np.array([0, 1, 0])) for name in {list(BY_LIBRARIES)}]; "
        "assert not {'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("judged", "name"), [case for case in CASES if case[1] in BY_LIBRARIES])
def test_a_score_is_that_of_the_libraries(judged: Judged, name: str) -> None:
    found = score((name,), judged.gold, judged.guess)[name]
    assert found == pytest.approx(BY_LIBRARIES[name](judged.gold, judged.guess), abs=1e-12)


def test_the_correlation_of_draws_that_hold_one_value_is_0() -> None:
    judged = Judged(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.1, 0.3]))
    counts = np.array([[3.0, 0.0, 0.0], [1.0, 2.0, 0.0]])
    for name in ("pearson", "spearman"):
        assert statistic_of(name, judged)(counts).tolist() == [0, 0]  # type: ignore[misc]


def test_draws_do_not_hang_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(draw_counts(7, 30, 1)))
    monkeypatch.setattr(resampling, "_MOST_CELLS", 7 * 4)
    assert np.array_equal(whole, np.concatenate(list(draw_counts(7, 30, 1))))
    assert whole.sum(axis=1).tolist() == [7] * 30


def test_one_question_has_no_draws() -> None:
    assert resampled({"accuracy": lambda counts: counts[:, 0]}, 1, draws=10, seed=0) == {}
