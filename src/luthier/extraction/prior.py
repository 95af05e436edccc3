"""The trivial baseline: what the training rows tell of any text without a look at its words.

A prior is {"rows": 300, "entity": "Person", "relation": "born", "turned": False}: every word is an entity of the
commonest type, and every word and the one behind it are related by the commonest relation, `turned` where its head is
the later one; a relation that goes either way counts as two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.extraction.types import Types
from luthier.tasks.running.predicting import Predictions


def prior_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The commonest entity type and the commonest relation of annotated rows; empty where there is no entity."""
    entities, relations, count = Counter[str](), Counter[tuple[str, bool]](), 0
    for row in rows:
        count += 1
        entities.update(one["type"] for one in row["entities"] or ())
        for one in row.get("relations") or ():
            head, tail = (row["entities"][one[end]]["start"] for end in ("head", "tail"))
            relations[one["type"], tail < head] += 1
    if not entities:
        return {}
    made: dict[str, Any] = {"rows": count, "entity": min(entities, key=lambda one: (-entities[one], one))}
    if relations:
        kind, turned = min(relations, key=lambda one: (-relations[one], one))
        made |= {"relation": kind, "turned": turned}
    return made


def told(prior: Mapping[str, Any]) -> str:
    """What is always answered, in words."""
    said = f"every word is {prior['entity']!r}"
    return f"{said}, related to the next by {prior['relation']!r}" if "relation" in prior else said


def predicted(prior: Mapping[str, Any], predictions: Predictions, types: Types) -> Predictions | None:
    """The constant answer for the windows of some predictions; None where the types are others. It has no loss."""
    if prior.get("entity") not in types.entities:
        return None
    kind, relation = types.entities.index(prior["entity"]), prior.get("relation")
    logits = np.empty(len(predictions.logits), object)
    for window, kept in enumerate(predictions.logits):
        first = np.arange(kept["words"])
        entities = np.stack([first, first + 1, np.full_like(first, kind), np.ones_like(first)], axis=1)
        relations = np.zeros((0, 4))
        if relation in types.relations and len(first) > 1:
            ends = (first[1:], first[:-1]) if prior["turned"] else (first[:-1], first[1:])
            known = np.full(len(first) - 1, types.relation_names.index(relation))
            relations = np.stack([*ends, known, np.ones_like(known)], axis=1)
        logits[window] = {**kept, "entities": entities, "relations": relations}
    return replace(predictions, logits=logits, nll=np.zeros(0), items=np.zeros(0))
