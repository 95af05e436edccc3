"""Scores of rows that count as often as a draw says, for many draws at once; a score itself is that of all rows once.

Their equations are those of scikit-learn and scipy, which take a second to import and give one score at a time. Shapes:
D draws, N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# How often each row counts, (D, N) -> the score in every draw, (D,).
Statistic = Callable[[np.ndarray], np.ndarray]


def of_all_rows(statistic: Statistic, rows: int) -> float:
    """The score where each of N rows counts once."""
    return float(statistic(np.ones((1, rows)))[0])


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


def accuracy(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    return mean_of(gold == guess)


def word_accuracy(gold: list[list[str]], guess: list[list[str]]) -> Statistic:
    """The share of words whose label is right, of N rows of words."""
    pairs = list(zip(gold, guess, strict=True))
    right = [sum(a == b for a, b in zip(real, said, strict=True)) for real, said in pairs]
    return ratio_of(right, [len(real) for real, _ in pairs])


def binary_f1(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    real, said = (gold == 1).astype(float), (guess == 1).astype(float)
    return ratio_of(2 * real * said, real + said)


def macro_f1(gold: np.ndarray, guess: np.ndarray) -> Statistic:
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


def matthews_correlation(gold: np.ndarray, guess: np.ndarray) -> Statistic:
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


def pearson(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    x, y = np.asarray(gold, float)[None], np.asarray(guess, float)[None]
    return lambda counts: _correlation(x, y, counts)


def spearman(gold: np.ndarray, guess: np.ndarray) -> Statistic:
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


def mean_squared_error(gold: np.ndarray, guess: np.ndarray) -> Statistic:
    return mean_of((np.asarray(gold, float) - guess) ** 2)
