"""Extractive answers: the best span over the windows of a context."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.tasks.running.predicting import Predictions


def best_answers(
    predictions: Predictions, examples: Any, rows: Any, max_tokens: int = 30, candidates: int = 20
) -> tuple[list[list[str]], list[str]]:
    """Reference answers and the highest-scoring span of every example.

    Args:
        predictions: start and end logits of every window.
        examples: source rows with `row`, `context`, `answers`.
        rows: encoded windows with `row` and `offsets`, (start, end) characters of each token in the context, (0, 0)
            or (-1, -1) outside it.
        max_tokens: longest answer.
        candidates: starts and ends that are combined.
    """
    best: dict[int, tuple[float, tuple[int, int]]] = {}
    for window, (start, end) in enumerate(predictions.logits):
        offsets, row = rows[window]["offsets"], int(predictions.rows[window])
        found = _best_span(start, end, offsets, max_tokens, candidates)
        if found and (row not in best or found[0] > best[row][0]):
            best[row] = found
    gold, guess = [], []
    for example in examples:
        _, (first, last) = best.get(example["row"], (0.0, (0, 0)))
        gold.append(list(example["answers"]["text"]) or [""])
        guess.append(example["context"][first:last])
    return gold, guess


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
