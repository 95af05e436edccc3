"""From a model's outputs to documents with entities and relations, windows put together, and thresholds.

A document that is told is {"entities": [{type, start, end, score}], "relations": [{type, head, tail, score}]}.

Shapes: B windows, Q relation types, n entities, m pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from luthier.extraction.types import Types

# Relations below that, and below the threshold of their type, are not kept of a model's outputs, so no threshold is
# chosen below it; and how many of a window.
FLOOR, MOST_RELATIONS = 0.05, 2000
# How far a threshold is below the score that it lets in, which another batch, or rounding to bfloat16, moves a little.
MARGIN = 1e-3
Span = tuple[int, int]


def kept_outputs(out: Any) -> Iterator[dict[str, Any]]:
    """Of each of B windows its `entities`, (n, 4) first word, word behind the last, type, probability; its `relations`,
    (m, 4) head, tail, type, probability; and `threshold`, (Q,)."""
    rows = len(out.found_words)
    threshold = None if out.threshold is None else out.threshold.cpu().numpy()
    for i in range(rows):
        there = (out.found_words[i, :, 0] >= 0).nonzero()[:, 0].cpu().numpy()
        words, types = out.found_words[i].cpu().numpy()[there], out.found_types[i].cpu().numpy()[there] - 1
        scores = out.found_scores[i].float().cpu().numpy()[there]
        entities = np.concatenate([words, types[:, None], scores[:, None]], axis=1, dtype=np.float32)
        relations = np.zeros((0, 4), np.float32)
        if out.found_pairs is not None:
            paired = there[: out.found_pairs.shape[1]]
            pairs = out.found_pairs[i].float().cpu().numpy()[np.ix_(paired, paired)]
            places = np.argwhere(pairs >= (FLOOR if threshold is None else np.minimum(FLOOR, threshold)))
            found = pairs[tuple(places.T)]
            best = np.argsort(-found, kind="stable")[:MOST_RELATIONS]
            relations = np.concatenate([places[best], found[best][:, None]], axis=1, dtype=np.float32)
        yield {"entities": entities, "relations": relations, "threshold": threshold}


@dataclass
class Found:
    """What is told of one text, of all its windows.

    Attributes:
        entities: span -> type and probability.
        relations: head, tail, type -> probability; all that were kept, whatever the threshold.
    """

    entities: dict[Span, tuple[int, float]] = field(default_factory=dict)
    relations: dict[tuple[Span, Span, int], float] = field(default_factory=dict)

    def add(self, kept: Mapping[str, Any], first_word: int, types: Types) -> None:
        """Put one more window's in; of two probabilities the higher one counts."""
        spans = []
        for start, end, kind, score in kept["entities"].tolist():
            span = int(start) + first_word, int(end) + first_word
            spans.append(span)
            if span not in self.entities or self.entities[span][1] < score:
                self.entities[span] = int(kind), score
        for head, tail, kind, score in kept["relations"].tolist():
            key = canonical(spans[int(head)], spans[int(tail)], int(kind), types)
            self.relations[key] = max(score, self.relations.get(key, 0.0))

    def document(self, types: Types, threshold: Sequence[float] | None) -> dict[str, Any]:
        """The entities in their order, and the relations whose probability reaches the threshold of their type."""
        order = sorted(self.entities)
        index = {span: place for place, span in enumerate(order)}
        entities = [
            {
                "type": types.entities[self.entities[span][0]],
                "start": span[0],
                "end": span[1],
                "score": self.entities[span][1],
            }
            for span in order
        ]
        relations = [
            {"type": types.relation_names[kind], "head": index[head], "tail": index[tail], "score": score}
            for (head, tail, kind), score in sorted(self.relations.items())
            if threshold is not None and score >= threshold[kind]
        ]
        return {"entities": entities, "relations": relations}


def canonical(head: Span, tail: Span, kind: int, types: Types) -> tuple[Span, Span, int]:
    """The relation with the span that starts first as its head, where its type is symmetric."""
    return (tail, head, kind) if types.symmetric[kind] and tail < head else (head, tail, kind)


def found_by_row(logits: Sequence[Any], rows: Any, first_words: Sequence[int], types: Types) -> dict[int, Found]:
    """Row number -> what is told of it.

    Args:
        logits: of every window, as `kept_outputs` gives it.
        rows, first_words: of every window.
    """
    found: dict[int, Found] = {}
    for kept, row, first in zip(logits, rows, first_words, strict=True):
        found.setdefault(int(row), Found()).add(kept, int(first), types)
    return found


def best_threshold(scores: np.ndarray, right: np.ndarray, annotated: int, default: float) -> float:
    """The score from which on relations of a type are told so that F1 is highest; of several equal ones the nearest to
    the default, and the default where none is right.

    Args:
        scores: (m,) of the relations that a model tells.
        right: (m,) whether each is annotated.
        annotated: how many there are.
    """
    if not right.any():
        return default
    order = np.argsort(-scores, kind="stable")
    ordered, correct = scores[order], np.cumsum(right[order])
    found = 2 * correct / (np.arange(1, len(order) + 1) + annotated)
    last = np.append(ordered[1:] < ordered[:-1], True)  # equal scores are told together
    below = np.append(ordered[1:], min(FLOOR, ordered[-1]))
    best = np.flatnonzero(last & (found >= found[last].max() - 1e-12))
    nearest = []
    for i in best:
        apart = ordered[i] - below[i]
        nearest.append(float(np.clip(default, below[i] + apart / 2, ordered[i] - min(apart / 4, MARGIN))))
    return min(nearest, key=lambda one: abs(one - default))
