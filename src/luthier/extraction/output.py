"""What a joint extraction model returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class ExtractionOutput(ModelOutput):
    """Shapes: B sentences, S candidate spans, P entities, E entity types and none, Q relation types.

    Attributes:
        loss: mean over the sentences, where annotations were given.
        row_loss: (B,) loss of every sentence, in float32.
        entity_logits: (B, S, E), none first.
        span_words: (B, S, 2) first word and the word behind the last.
        span_valid: (B, S), spans that there are.
        pair_logits: (B, P', P', Q) of the pairs that relations are learned from, where annotations were given.
        logits: (N, C), one row for every decision that two passes over a batch can be compared by.
        found_words: (B, P, 2) entities that are told, the likeliest first; -1 for none. In evaluation only, as all
            below.
        found_types: (B, P) their types, from 1.
        found_scores: (B, P) their probabilities.
        found_pairs: (B, M, M, Q) probabilities of relations between the first M of them, by head and tail; M is
            `max_entities` at most.
        threshold: (Q,) probabilities from which on a relation is told.
    """

    loss: Tensor | None = None
    row_loss: Tensor | None = None
    entity_logits: Tensor | None = None
    span_words: Tensor | None = None
    span_valid: Tensor | None = None
    pair_logits: Tensor | None = None
    logits: Tensor | None = None
    found_words: Tensor | None = None
    found_types: Tensor | None = None
    found_scores: Tensor | None = None
    found_pairs: Tensor | None = None
    threshold: Tensor | None = None
