"""The trivial baseline of a language model: every token by its share of the training text, whatever precedes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.schemas import IGNORED

if TYPE_CHECKING:
    from luthier.tasks.running.predicting import Predictions

# Encoded training rows that shares are counted in.
MOST_ROWS = 1000


def log_shares(labels: Iterable[Sequence[int]], vocabulary: int) -> np.ndarray:
    """(V,) log-share of every token among those that are learned, each counted once more than it occurs (Laplace's
    rule), so that none is impossible.

    Args:
        labels: of every training row; -100 where nothing is learned.
        vocabulary: V, of the model.
    """
    counts = np.ones(vocabulary)
    for row in labels:
        ids = np.asarray(row, int)
        counts += np.bincount(ids[ids != IGNORED], minlength=vocabulary)
    return np.asarray(np.log(counts / counts.sum()))


def predicted_tokens(shares: np.ndarray, rows: Any, predictions: Predictions, *, shifted: bool) -> Predictions:
    """The likelihood of the rows that a model predicted, by (V,) log-shares alone.

    Args:
        shares: of `log_shares`.
        rows: encoded, as they were predicted.
        predictions: of the model.
        shifted: whether position t predicts token t + 1, so that the first label of a row does not count.
    """
    learned = [np.asarray(row, int)[1 if shifted else 0 :] for row in rows["labels"]]
    learned = [row[row != IGNORED] for row in learned]
    nll = np.array([-shares[row].sum() for row in learned])
    return replace(predictions, nll=nll, items=np.array([len(row) for row in learned]))
