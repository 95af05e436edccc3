"""The score from which on a relation is told, chosen for every relation type on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from luthier.extraction.documents import whole
from luthier.extraction.heads import RelationClassifier
from luthier.extraction.scoring import strict_item, without_ignored
from luthier.extraction.table import RelationTable
from luthier.extraction.telling import Found, best_threshold, found_by_row
from luthier.extraction.types import Types


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
    types = Types.of_labels(labels)
    found = predict()
    chosen = thresholds_of(found, types, examples, rows, default=heads[-1].default_threshold)
    for head in heads:
        with torch.no_grad():
            head.threshold.copy_(torch.tensor(chosen))
    return {"thresholds": dict(zip(types.relations, chosen, strict=True))}


def thresholds_of(predictions: Any, types: Types, examples: Any, rows: Any, *, default: float) -> list[float]:
    """The threshold of every relation type."""
    found, names = found_by_row(predictions.logits, predictions.rows, rows["first_word"], types), types.relation_names
    scores: list[list[float]] = [[] for _ in types.relations]
    right: list[list[bool]] = [[] for _ in types.relations]
    annotated = [0] * len(types.relations)
    all_kept = [0.0] * len(types.relations)
    for example in examples:
        gold = whole(example)
        known = {strict_item(gold, one, types) for one in gold["relations"]}
        for item in known:
            annotated[names.index(str(item[0]))] += 1
        told = found.get(int(example["row"]), Found()).document(types, all_kept)
        told = without_ignored(gold, told, types)
        for one in told["relations"]:
            kind = names.index(one["type"])
            scores[kind].append(one["score"])
            right[kind].append(strict_item(told, one, types) in known)
    return [
        best_threshold(np.array(scores[kind]), np.array(right[kind], bool), annotated[kind], default)
        for kind in range(len(types.relations))
    ]
