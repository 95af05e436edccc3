"""Answers of which each says of every class whether a row is of it.

Shapes: N rows, C classes, D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from luthier.report.sections import Section, SectionTable, Value
from luthier.tasks.running.predicting import Predictions

_SHOWN = 30


def micro_f1(gold: np.ndarray, guess: np.ndarray) -> float:
    """F1 of all (N, C) decisions together; 0 where nothing is told and nothing is there."""
    return float(_micro(*_counts(gold, guess, np.ones((1, len(gold)))))[0])


def macro_f1(gold: np.ndarray, guess: np.ndarray) -> float:
    """The mean of the F1 of the classes that are there or told; 0 where none is."""
    return float(_macro(*_counts(gold, guess, np.ones((1, len(gold)))))[0])


def subset_accuracy(gold: np.ndarray, guess: np.ndarray) -> float:
    """Share of rows of which every class is told right."""
    return float(np.mean((gold == guess).all(axis=1)))


SCORES: Mapping[str, Callable[[Any, Any], float]] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_f1,
    "subset_accuracy": subset_accuracy,
}


def drawn_scores(gold: np.ndarray, guess: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Name -> (D, N) how often each row is drawn -> (D,) scores."""

    def of_counts(score: Callable[..., np.ndarray], times: np.ndarray) -> np.ndarray:
        return score(*_counts(gold, guess, times))

    right = (gold == guess).all(axis=1)
    return {
        "micro_f1": partial(of_counts, _micro),
        "macro_f1": partial(of_counts, _macro),
        "subset_accuracy": lambda times: times @ right / times.sum(axis=1),
    }


def _counts(gold: np.ndarray, guess: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(3, D, C): in how many rows of each draw a class is told rightly, told, and there."""
    found: np.ndarray = np.stack([times @ part for part in (gold * guess, guess, gold)])
    return found


def _micro(right: np.ndarray, told: np.ndarray, there: np.ndarray) -> np.ndarray:
    return _f1(right.sum(axis=1), told.sum(axis=1), there.sum(axis=1))


def _macro(right: np.ndarray, told: np.ndarray, there: np.ndarray) -> np.ndarray:
    counted = (told + there) > 0
    summed: np.ndarray = _f1(right, told, there).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return summed


def _f1(right: np.ndarray, told: np.ndarray, there: np.ndarray) -> np.ndarray:
    both = told + there
    found: np.ndarray = np.where(both > 0, 2 * right / np.where(both > 0, both, 1), 0.0)
    return found


def best_constant(shares: Sequence[float]) -> np.ndarray:
    """(C,) of 0 and 1: the same answer for every row that has the best micro-F1 where classes have these shares."""
    order = np.argsort(-np.asarray(shares, float), kind="stable")
    right = np.cumsum(np.asarray(shares, float)[order])
    most = int((2 * right / (np.arange(1, len(order) + 1) + right[-1])).argmax()) + 1
    found = np.zeros(len(order), int)
    found[order[:most]] = 1
    return found


def predicted_by_shares(shares: Sequence[float], rows: int, predictions: Predictions) -> Predictions:
    """For every row the answer of `best_constant`, and the same probability of every class: its share of the training
    rows, each answer counted once more than it occurred (Laplace's rule)."""
    yes = (np.asarray(shares, float) * rows + 1) / (rows + 2)
    logits = np.tile(np.log(yes / (1 - yes)), (len(predictions.rows), 1))
    nll = -(predictions.labels * np.log(yes) + (1 - predictions.labels) * np.log(1 - yes)).sum(axis=1)
    guesses = np.tile(best_constant(shares), (len(nll), 1))
    return replace(predictions, logits=logits, guesses=guesses, nll=nll, items=np.full(len(nll), len(yes)))


def sections(gold: np.ndarray, guess: np.ndarray, names: Sequence[str]) -> list[Section]:
    """Precision, recall and F1 of every class, the most frequent first."""
    right, told, there = _counts(gold, guess, np.ones((1, len(gold))))[:, 0].astype(int)
    every: list[list[Value]] = [
        [
            names[n],
            _share(right[n], told[n]),
            _share(right[n], there[n]),
            _share(2 * right[n], told[n] + there[n]),
            int(there[n]),
            int(told[n]),
        ]
        for n in np.argsort(-there, kind="stable")
    ]
    text = "Support is how many rows are of the class, predicted of how many the model says so. No precision where a "
    text += "class is never predicted, no recall where no row is of it."
    columns = ["class", "precision", "recall", "F1", "support", "predicted"]
    table = SectionTable(columns, every, folded=max(0, len(every) - _SHOWN))
    counts = {"classes of a row": float(gold.sum() / len(gold)), "predicted of a row": float(guess.sum() / len(gold))}
    return [Section("Scores by class", text=text, facts=counts, table=table)]


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
