"""Extractive answers: the best span over the windows of a context."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from luthier.tasks.running.predicting import Predictions


def best_answers(
    predictions: Predictions, examples: Any, rows: Any, max_tokens: int = 30, candidates: int = 20, *, none: bool
) -> tuple[list[list[str]], list[str]]:
    """Reference answers and the highest-scoring span of every example.

    A window without the answer is learned as one that starts and ends at its first token. So a question has none where
    every window tells that of itself, and the one least sure of it still scores it above every span (SQuAD 2.0).

    Args:
        predictions: start and end logits of every window.
        examples: source rows with `row`, `context`, `answers`.
        rows: encoded windows with `row` and `offsets`, (start, end) characters of each token in the context, (0, 0)
            or (-1, -1) outside it.
        max_tokens: longest answer.
        candidates: starts and ends that are combined.
        none: whether a question may have no answer, which is told as an empty one.
    """
    nothing: dict[int, float] = {}
    best: dict[int, tuple[float, tuple[int, int]]] = {}
    for window, (start, end) in enumerate(predictions.logits):
        offsets, row = rows[window]["offsets"], int(predictions.rows[window])
        found = _best_span(start, end, offsets, max_tokens, candidates)
        if found and (row not in best or found[0] > best[row][0]):
            best[row] = found
        nothing[row] = min(nothing.get(row, np.inf), float(start[0] + end[0]))
    gold, guess = [], []
    for example in examples:
        score, (first, last) = best.get(example["row"], (-np.inf, (0, 0)))
        if none and nothing.get(example["row"], -np.inf) > score:
            first = last = 0
        gold.append(list(example["answers"]["text"]) or [""])
        guess.append(example["context"][first:last])
    return gold, guess


def without_answers(predictions: Predictions) -> Predictions:
    """The same windows, each of which tells that no answer is in it. They have no loss."""
    logits = np.empty(len(predictions.logits), object)
    for window, (start, _) in enumerate(predictions.logits):
        first = np.where(np.arange(len(start)) == 0, 1.0, 0.0)
        logits[window] = (first, first)
    return replace(predictions, logits=logits, nll=np.zeros(0), items=np.zeros(0))


def _best_span(
    start: np.ndarray, end: np.ndarray, offsets: list[Any], max_tokens: int, candidates: int
) -> tuple[float, tuple[int, int]] | None:
    inside = np.array([pair is not None and pair[1] > pair[0] for pair in offsets])
    starts = [i for i in np.argsort(-start[: len(inside)])[:candidates] if inside[i]]
    ends = [i for i in np.argsort(-end[: len(inside)])[:candidates] if inside[i]]
    spans = [
        (float(start[a] + end[b]), (offsets[a][0], offsets[b][1]))
        for a in starts
        for b in ends
        if a <= b < a + max_tokens
    ]
    return max(spans, default=None)
