"""Scores of many bootstrap draws at once. A draw says how often each question counts; scores are made of sums.

Shapes: D draws, Q questions, N rows (as many as questions where every row is asked by itself), C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from luthier.evaluation.metrics import answer_f1, exact_match

if TYPE_CHECKING:
    from luthier.tasks.running.judged import Judged

# How often each question was drawn, (D, Q) -> the score in every draw, (D,).
Statistic = Callable[[np.ndarray], np.ndarray]
_Builder = Callable[[Any, Any], Statistic]
_Name = TypeVar("_Name", bound=Hashable)
# Cells of the counts that are held at once, 8 bytes each.
_MOST_CELLS = 4_000_000


def draw_counts(questions: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each question occurs in samples with replacement, as (d, Q) float64 blocks of D draws in all.

    The draws are those of `luthier.evaluation.metrics.bootstrap_interval` with the same seed.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _MOST_CELLS // questions)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = generator.integers(0, questions, (size, questions))
        drawn += questions * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * questions).reshape(size, questions).astype(float)


def resampled(
    statistics: Mapping[_Name, Statistic], questions: int, *, draws: int, seed: int
) -> dict[_Name, np.ndarray]:
    """Every statistic in the same D draws, (D,) each; nothing for fewer than 2 questions."""
    if questions < 2 or not statistics:
        return {}
    found: dict[_Name, list[np.ndarray]] = {name: [] for name in statistics}
    for counts in draw_counts(questions, draws, seed):
        for name, statistic in statistics.items():
            found[name].append(statistic(counts))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def statistic_of(name: str, judged: Judged) -> Statistic | None:
    """A metric of `luthier.evaluation.metrics` for many draws at once; None for one that is not known here."""
    if name == "question_exact_match" and judged.groups is not None:
        wrong = np.bincount(judged.groups, weights=judged.gold != judged.guess)
        return mean_of(wrong[np.bincount(judged.groups) > 0] == 0)
    builder = _BUILDERS.get(name)
    if builder is None:
        return None
    statistic, groups = builder(judged.gold, judged.guess), judged.groups
    if groups is None:
        return statistic
    return lambda counts: statistic(counts[:, groups])


def mean_of(values: Any) -> Statistic:
    """The mean of (N,) values."""
    return ratio_of(values, np.ones(len(values)))


def ratio_of(above: Any, below: Any) -> Statistic:
    """The sum of (N,) values over the sum of others, 0 where that is 0."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    return lambda counts: _divided(counts @ above, counts @ below)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def _class_sums(counts: np.ndarray, ids: np.ndarray, classes: int) -> np.ndarray:
    """(D, N) counts of rows with (N,) ids below C -> (D, C) counts of classes."""
    order = np.argsort(ids, kind="stable")
    present, starts = np.unique(ids[order], return_index=True)
    sums = np.zeros((len(counts), classes))
    if len(present):
        sums[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return sums


def _accuracy(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    return mean_of(gold == guess)


def _binary_f1(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    real, said = (gold == 1).astype(float), (guess == 1).astype(float)
    return ratio_of(2 * real * said, real + said)


def _macro_f1(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    labels, (real, said) = _renumbered(gold, guess)
    hit = gold == guess

    def statistic(counts: np.ndarray) -> np.ndarray:
        right = _class_sums(counts[:, hit], real[hit], len(labels))
        either = _class_sums(counts, real, len(labels)) + _class_sums(counts, said, len(labels))
        counted = (either > 0) & (labels != -1)
        scores = _divided(2 * right, either)
        return _divided((scores * counted).sum(axis=1), counted.sum(axis=1).astype(float))

    return statistic


def guessed_macro_f1(gold: np.ndarray, shares: np.ndarray) -> Statistic:
    """Macro-F1 of the confusion counts that are expected of guesses at random, class c with (C,) probability p_c.

    Of n rows, n_c of them of class c, p_c n_c are guessed right, p_c n said to be c: F1 is 2 p_c n_c / (n_c + p_c n).
    It is never below that of any constant answer, and where the shares are those of the n rows, it is 1 / C.
    """

    def statistic(counts: np.ndarray) -> np.ndarray:
        real, rows = _class_sums(counts, gold, len(shares)), counts.sum(axis=1, keepdims=True)
        either = real + shares * rows
        counted = (either > 0).sum(axis=1).astype(float)
        return _divided(_divided(2 * shares * real, either).sum(axis=1), counted)

    return statistic


def _matthews(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    labels, (real, said) = _renumbered(gold, guess)
    hit = (gold == guess).astype(float)

    def statistic(counts: np.ndarray) -> np.ndarray:
        rows, right = counts.sum(axis=1), counts @ hit
        wanted, given = _class_sums(counts, real, len(labels)), _class_sums(counts, said, len(labels))
        both = right * rows - (wanted * given).sum(axis=1)
        spread = (rows**2 - (wanted**2).sum(axis=1)) * (rows**2 - (given**2).sum(axis=1))
        return _divided(both, np.sqrt(spread))

    return statistic


def _renumbered(gold: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes that occur, and both (N,) as places among them."""
    labels, places = np.unique(np.concatenate([gold, guess]), return_inverse=True)
    return labels, places.reshape(2, len(gold))


def _pearson(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    x, y = np.asarray(gold, float)[None], np.asarray(guess, float)[None]
    return lambda counts: _correlation(x, y, counts)


def _spearman(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    return lambda counts: _correlation(_ranks(gold, counts), _ranks(guess, counts), counts)


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N,) values in D draws -> (D, N) ranks, equal values with the mean of theirs."""
    distinct, places = np.unique(values, return_inverse=True)
    sums = _class_sums(counts, places, len(distinct))
    return (np.cumsum(sums, axis=1) - (sums - 1) / 2)[:, places]


def _correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of (1 or D, N) values that count as often as (D, N) says; 0 where either is constant."""
    rows = counts.sum(axis=1, keepdims=True)
    x, y = (one - (counts * one).sum(axis=1, keepdims=True) / rows for one in (x, y))
    both = (counts * x * y).sum(axis=1)
    spread = (counts * x**2).sum(axis=1) * (counts * y**2).sum(axis=1)
    varied = _varies(x, counts) & _varies(y, counts)
    return np.where(varied, np.clip(_divided(both, np.sqrt(spread)), -1, 1), 0.0)


def _varies(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    drawn = counts > 0
    lowest = np.where(drawn, values, np.inf).min(axis=1)
    return np.asarray(lowest < np.where(drawn, values, -np.inf).max(axis=1))


def _squared_error(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    return mean_of((np.asarray(gold, float) - guess) ** 2)


def _entity_f1(gold: list[list[str]], guess: list[list[str]]) -> Statistic:
    real, said = _entities(gold), _entities(guess)
    right = [len(a & b) for a, b in zip(real, said, strict=True)]
    both = [len(a) + len(b) for a, b in zip(real, said, strict=True)]
    return ratio_of(2 * np.array(right), both)


def _entities(rows: list[list[str]]) -> list[set[Any]]:
    from seqeval.metrics.sequence_labeling import get_entities

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [set(get_entities(row)) for row in rows]


def _mean_by_row(metric: Callable[[Any, Any], float]) -> _Builder:
    return lambda gold, guess: mean_of([metric([one], [said]) for one, said in zip(gold, guess, strict=True)])


_BUILDERS: dict[str, _Builder] = {
    "accuracy": _accuracy,
    "f1": _binary_f1,
    "macro_f1": _macro_f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "mean_squared_error": _squared_error,
    "seqeval_f1": _entity_f1,
    "exact_match": _mean_by_row(exact_match),
    "squad_f1": _mean_by_row(answer_f1),
}
