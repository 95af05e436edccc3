"""The score from which on a relation is told, chosen for every relation type on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from luthier.extraction.heads import RelationClassifier
from luthier.extraction.table import RelationTable
from luthier.extraction.telling import best_threshold, found_by_row, items_of
from luthier.extraction.types import ExtractionTypes


def settle_thresholds(
    model: Any, predict: Callable[[], Any], labels: Sequence[str], examples: Any, rows: Any
) -> dict[str, Any]:
    """Set the thresholds of a trained model to those with the highest strict F1 of their type.

    Args:
        model: with its head, wrapped or not.
        predict: what it tells of the rows.
        labels: names of its outputs.
        examples: annotated texts.
        rows: the same ones, encoded.

    Returns:
        `thresholds` by relation type; nothing where the head is not to tune them, or there are no relation types.
    """
    heads = [part for part in model.modules() if isinstance(part, RelationClassifier | RelationTable)]
    if not heads or not all(head.tune_threshold for head in heads):
        return {}
    types = ExtractionTypes.of_labels(labels)
    found = predict()
    chosen = thresholds_of(found, types, examples, rows, default=heads[-1].default_threshold)
    for head in heads:
        with torch.no_grad():
            head.threshold.copy_(torch.tensor(chosen))
    return {"thresholds": dict(zip(types.relations, chosen, strict=True))}


def thresholds_of(predictions: Any, types: ExtractionTypes, examples: Any, rows: Any, *, default: float) -> list[float]:
    """The threshold of every relation type."""
    found = found_by_row(predictions.logits, predictions.rows, rows["first_word"], types)
    scores: list[list[float]] = [[] for _ in types.relations]
    right: list[list[bool]] = [[] for _ in types.relations]
    annotated = [0] * len(types.relations)
    for example in examples:
        known = items_of(example, types)[2]
        for *_, kind in known:
            annotated[kind] += 1
        told = found.get(int(example["row"]))
        for (head, tail, kind), score in told.relations.items() if told else ():
            assert told is not None
            pair = (head, told.entities[head][0]), (tail, told.entities[tail][0])
            scores[kind].append(score)
            right[kind].append((*pair, kind) in known)
    return [
        best_threshold(np.array(scores[kind]), np.array(right[kind], bool), annotated[kind], default)
        for kind in range(len(types.relations))
    ]
