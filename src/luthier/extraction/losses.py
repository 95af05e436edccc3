"""What a sentence costs (SINET, section 3.4): cross-entropy over spans, binary cross-entropy over pairs.

Both are means over what a sentence is trained on, so that the loss of a step is a mean over its sentences and gradient
accumulation changes nothing. With one sentence a step that is the paper's loss.

Shapes: B sentences, S candidate spans, G annotated entities, N annotated relations, P entities whose pairs are looked
at, E entity types and none, Q relation types.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.extraction.spans import PAIRS_APART, Spans, drawn, marked

# The logit of a class that a decision does not have: far below any other, and finite.
NEVER = -1e4


@dataclass
class Unknown:
    """What is not known of a partly annotated batch; nothing of it is a negative example.

    Attributes:
        words: (B, W), words of which nothing is known.
        pairs: (B, M, 2) entities, head and tail, that may be related; -1 for none.
        entity_types: (B, E - 1), types that were not looked for.
        relation_types: (B, Q).
    """

    words: Tensor
    pairs: Tensor
    entity_types: Tensor
    relation_types: Tensor

    def spans(self, spans: Spans) -> Tensor:
        """(B, N), spans with such a word."""
        before = F.pad(self.words.long().cumsum(dim=1), (1, 0))
        first, last = (before.gather(1, place.clamp(0, before.shape[1] - 1)) for place in spans.words.unbind(-1))
        return last > first


@dataclass
class Annotated:
    """What is known of a batch.

    Attributes:
        places: (B, G) each entity's place among the candidate spans, -1 for none.
        types: (B, G), from 1.
        relations: (B, N, 3) head, tail and type; -1 for none.
        spans: all candidate spans.
        unknown: what is not, where the texts are partly annotated.
    """

    places: Tensor
    types: Tensor
    relations: Tensor
    spans: Spans
    unknown: Unknown | None = None

    def unknown_pairs(self, chosen: Tensor) -> Tensor | None:
        """(B, P) places of entities -> (B, P, P), pairs of which it is not known whether they are related; None where
        all are. An entity that was not annotated, in a text where some types were not looked for, may be one."""
        if self.unknown is None:
            return None
        unsure = self.unknown.spans(self.spans.at(chosen))
        annotated = (chosen[..., None] == self.places[:, None]).any(dim=-1)
        unsure = unsure | (self.unknown.entity_types.any(dim=1, keepdim=True) & ~annotated)
        head, tail = (self.place_of(one) for one in self.unknown.pairs.unbind(-1))
        named = torch.einsum("bmh,bmt->bht", _at(chosen, head), _at(chosen, tail)) > 0
        return unsure[:, :, None] | unsure[:, None] | named

    def place_of(self, entity: Tensor) -> Tensor:
        """(B, M) entities -> their places among the candidate spans, -2 for none."""
        return self.places.gather(1, entity.clamp(min=0)).masked_fill(entity < 0, -2)


def _at(chosen: Tensor, place: Tensor) -> Tensor:
    """(B, P) and (B, M) places -> (B, M, P), 1 where they are the same."""
    return (chosen[:, None] == place[..., None]).float()


def entity_losses(logits: Tensor, known: Annotated, negatives: int, seeds: Tensor | None) -> Tensor:
    """(B,) mean cross-entropy over the annotated entities and up to `negatives` of the other spans; over all of them
    without seeds.

    Args:
        logits: (B, S, E).
        seeds: (B,), one of each sentence's draw.
    """
    count, valid = logits.shape[1], known.spans.valid
    entities = marked(known.places, count)
    targets = known.places.new_zeros(len(logits), count + 1)
    targets.scatter_(1, torch.where(known.places >= 0, known.places, count), known.types.clamp(min=0))
    others = valid & ~entities
    if known.unknown is not None:
        others = others & ~known.unknown.spans(known.spans)
    if seeds is not None:
        others = drawn(others, torch.arange(count, device=logits.device), seeds, negatives)
    counted = (entities & valid) | others
    logits = precise(logits)
    losses = F.cross_entropy(logits.flatten(0, 1), targets[:, :count].flatten(), reduction="none").view_as(counted)
    if known.unknown is not None:
        # Another span is none, or of a type that was not looked for.
        possible = F.pad(known.unknown.entity_types, (1, 0), value=True)[:, None]
        none = logits.logsumexp(dim=-1) - logits.masked_fill(~possible, NEVER).logsumexp(dim=-1)
        losses = torch.where(entities, losses, none)
    return _mean(losses, counted)


def relation_losses(
    logits: Tensor, chosen: Tensor, valid: Tensor, known: Annotated, negatives: int, seeds: Tensor | None
) -> Tensor:
    """(B,) mean over related pairs and up to `negatives` of the others of the mean binary cross-entropy over the types;
    0 for a sentence without pairs.

    Args:
        logits: (B, P, P, Q), by head and tail.
        chosen: (B, P) place of every entity among the candidate spans, -1 for none.
        valid: (B, P), entities that there are.
    """
    targets = _pair_targets(logits, chosen, known)
    size = chosen.shape[1]
    place = torch.arange(size, device=chosen.device)
    pairs = valid[:, :, None] & valid[:, None] & (place[:, None] != place)
    related = targets.any(dim=-1) & pairs
    others, unknown = pairs & ~related, known.unknown_pairs(chosen)
    weights = torch.ones_like(targets)
    if unknown is not None and known.unknown is not None:
        weights = targets | ~known.unknown.relation_types[:, None, None]
        others = others & ~unknown & weights.any(dim=-1)
    if seeds is not None:
        numbers = (place[:, None] * PAIRS_APART + place).flatten()
        others = drawn(others.flatten(1), ~numbers, seeds, negatives).view_as(others)
    losses = F.binary_cross_entropy_with_logits(precise(logits), targets.to(precise(logits).dtype), reduction="none")
    losses = (losses * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1)
    return _mean(losses.flatten(1), (related | others).flatten(1))


def comparable(entities: Tensor, valid: Tensor, pairs: Tensor | None, known: Annotated | None) -> Tensor:
    """(N, C) logits, one row for every span and every relation of every pair that another pass over the same batch has
    too."""
    width = max(2, entities.shape[-1])
    rows = [F.pad(entities[valid], (0, width - entities.shape[-1]), value=NEVER)]
    if pairs is not None and known is not None:
        there = known.places >= 0
        same = torch.eye(there.shape[1], dtype=torch.bool, device=there.device)
        yes = pairs[there[:, :, None] & there[:, None] & ~same].reshape(-1, 1)
        rows.append(F.pad(torch.cat([torch.zeros_like(yes), yes], dim=1), (0, width - 2), value=NEVER))
    return torch.cat(rows)


def _pair_targets(logits: Tensor, chosen: Tensor, known: Annotated) -> Tensor:
    """(B, P, P, Q), whether each relation holds."""
    head, tail, kind = known.relations.unbind(-1)
    there = kind >= 0
    is_head, is_tail = (_at(chosen, known.place_of(one.masked_fill(~there, -1))) for one in (head, tail))
    kinds = F.one_hot(kind.clamp(min=0), logits.shape[-1])
    return torch.einsum("bnh,bnt,bnq->bhtq", is_head, is_tail, kinds.float()) > 0


def precise(values: Tensor) -> Tensor:
    """The values in at least float32."""
    return values if values.dtype == torch.float64 else values.float()


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    return (losses * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
