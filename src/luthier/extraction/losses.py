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
class Annotated:
    """What is known of a batch.

    Attributes:
        places: (B, G) each entity's place among the candidate spans, -1 for none.
        types: (B, G), from 1.
        relations: (B, N, 3) head, tail and type; -1 for none.
        spans: all candidate spans.
    """

    places: Tensor
    types: Tensor
    relations: Tensor
    spans: Spans


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
    if seeds is not None:
        others = drawn(others, torch.arange(count, device=logits.device), seeds, negatives)
    counted = (entities & valid) | others
    losses = F.cross_entropy(precise(logits).flatten(0, 1), targets[:, :count].flatten(), reduction="none")
    return _mean(losses.view_as(counted), counted)


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
    others = pairs & ~related
    if seeds is not None:
        numbers = (place[:, None] * PAIRS_APART + place).flatten()
        others = drawn(others.flatten(1), ~numbers, seeds, negatives).view_as(others)
    losses = F.binary_cross_entropy_with_logits(precise(logits), targets.to(precise(logits).dtype), reduction="none")
    return _mean(losses.mean(dim=-1).flatten(1), (related | others).flatten(1))


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
    places = [known.places.gather(1, one.clamp(min=0)).masked_fill(~there, -2) for one in (head, tail)]
    is_head, is_tail = (chosen[:, None] == place[..., None] for place in places)
    kinds = F.one_hot(kind.clamp(min=0), logits.shape[-1])
    return torch.einsum("bnh,bnt,bnq->bhtq", is_head.float(), is_tail.float(), kinds.float()) > 0


def precise(values: Tensor) -> Tensor:
    """The values in at least float32."""
    return values if values.dtype == torch.float64 else values.float()


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    return (losses * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
