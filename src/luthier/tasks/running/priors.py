"""What the labels of the training rows tell about any row, and what would be predicted from that alone.

A prior is a mapping in JSON's types, so that a saved model can carry it:

    {"rows": 300, "shares": {"negative": 0.48, "positive": 0.52}}    one class of a closed set a row, or a word
    {"rows": 300, "shares": [0.3, 0.7]}                              the place of the right choice
    {"rows": 300, "mean": 2.6, "deviation": 1.5}                     a number a row
    {"rows": 300, "unanswered": 0.3}                                 questions, some of them without an answer

Shapes: N rows, C classes or choices, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.data.schemas import IGNORED
from luthier.tasks.running.predicting import Predictions

Prior = Mapping[str, Any]


def training_labels(splits: Mapping[str, Any], column: str) -> list[Any]:
    """Labels of the training rows; none where they are streamed, missing, or have no labels."""
    rows: Any = splits.get("train")
    return list(rows[column]) if column in (getattr(rows, "column_names", None) or ()) else []


def prior_of_classes(ids: Sequence[int], labels: Sequence[str]) -> dict[str, Any]:
    """The share of every label among (N,) class ids; empty where there are none."""
    if not len(ids) or not labels:
        return {}
    shares = np.bincount(np.asarray(ids, int), minlength=len(labels)) / len(ids)
    return {"rows": len(ids), "shares": dict(zip(labels, shares.tolist(), strict=True))}


def prior_of_choices(places: Sequence[int]) -> dict[str, Any]:
    """The share of every place among those of the right choices."""
    if not len(places):
        return {}
    return {"rows": len(places), "shares": (np.bincount(np.asarray(places, int)) / len(places)).tolist()}


def prior_of_numbers(numbers: Sequence[float]) -> dict[str, Any]:
    """The mean of the numbers and their standard deviation (divisor N)."""
    if not len(numbers):
        return {}
    return {"rows": len(numbers), "mean": float(np.mean(numbers)), "deviation": float(np.std(numbers))}


def class_scores(prior: Prior, labels: Sequence[str]) -> np.ndarray | None:
    """(C,) log-shares of the labels, each counted once more than it occurred, so that none is impossible (Laplace's
    rule). None where the prior is of other labels."""
    shares = prior.get("shares")
    if isinstance(shares, Mapping):
        if not set(labels) <= shares.keys():
            return None
        shares = [shares[label] for label in labels]
    elif shares is not None:
        shares = [*shares, *[0.0] * len(labels)][: len(labels)]
    if shares is None or not labels:
        return None
    counted = np.asarray(shares, float) * int(prior["rows"]) + 1
    return np.asarray(np.log(counted / counted.sum()))


def predicted_classes(scores: np.ndarray, predictions: Predictions) -> Predictions:
    """The same (C,) log-probabilities for every row."""
    logits, labels = np.tile(scores, (len(predictions.rows), 1)), np.asarray(predictions.labels, int)
    known = (labels >= 0) & (labels < len(scores))
    nll = np.where(known, -scores[np.where(known, labels, 0)], 0.0)
    return replace(predictions, logits=logits, guesses=None, nll=nll, items=known.astype(int))


def predicted_tags(scores: np.ndarray, predictions: Predictions) -> Predictions:
    """The same (C,) log-probabilities for every word."""
    kept = [np.asarray(labels)[np.asarray(labels) != IGNORED] for labels in predictions.labels]
    return replace(
        predictions,
        logits=[np.broadcast_to(scores, (len(labels), len(scores))) for labels in predictions.labels],
        guesses=None,
        nll=np.array([-scores[labels].sum() for labels in kept]),
        items=np.array([len(labels) for labels in kept]),
    )


def predicted_numbers(mean: float, predictions: Predictions) -> Predictions:
    """The same number for every row."""
    errors = (np.asarray(predictions.labels, float).reshape(-1) - mean) ** 2
    logits = np.full((len(errors), 1), mean)
    return replace(predictions, logits=logits, guesses=None, nll=errors, items=np.ones(len(errors), int))
