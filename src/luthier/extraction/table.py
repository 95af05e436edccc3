"""Table heads (PFN, Yan et al., EMNLP 2021, section 4): every cell of a table of pieces says which types hold there.

Shapes: B sentences, T pieces, W words, d width, N cells, L types.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luthier.extraction.losses import Annotated, Unknown, precise
from luthier.extraction.pooling import take
from luthier.extraction.spans import Spans

# Score from which on a span is an entity.
ENTITY_THRESHOLD = 0.5


class TableHead(nn.Module):
    """W_2 ELU(Drop(LN(W_1 [first; second; sentence]))), with W_1 split so that each part is multiplied once."""

    def __init__(self, options: Any, width: int, types: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.sentence = nn.Linear(width, width, bias=False)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(options.head_dropout)
        self.cells = nn.Linear(width, types)

    def forward(self, sentence: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Args:
            sentence: (B, d).
            first, second: (B, N, d) for one cell of each two, or (B, N, 1, d) and (B, 1, N, d) for all.

        Returns:
            (B, N, L) or (B, N, N, L) logits.
        """
        whole = self.sentence(sentence).view(len(sentence), *[1] * (first.ndim - 2), -1)
        hidden = self.first(first) + self.second(second) + whole
        logits: Tensor = self.cells(F.elu(self.dropout(self.norm(hidden))))
        return logits


class RelationTable(TableHead):
    """Relations in the cells of two entities' first pieces.

    Attributes:
        threshold: (L,) scores from which on a relation is told; saved with the weights.
    """

    threshold: Tensor

    def __init__(self, options: Any, width: int, types: int) -> None:
        super().__init__(options, width, types)
        self.default_threshold, self.tune_threshold = options.threshold, options.tune_thresholds
        self.register_buffer("threshold", torch.full((types,), options.threshold))

    def pairs(self, states: Tensor, sentence: Tensor, places: Tensor) -> Tensor:
        """(B, T, d) at (B, N) pieces -> (B, N, N, L), by head and tail."""
        here = take(states, places.clamp(0, states.shape[1] - 1))
        return self(sentence, here[:, :, None], here[:, None])


def entity_cells(head: TableHead, states: Tensor, sentence: Tensor, spans: Spans) -> Tensor:
    """(B, N, L) logits of spans, each the cell of its first and its last piece."""
    most = states.shape[1] - 1
    first, last = spans.start.clamp(0, most), (spans.end - 1).clamp(0, most)
    return head(sentence, take(states, first), take(states, last))


def with_none(cells: Tensor) -> Tensor:
    """(B, N, L) logits -> (B, N, 1 + L), in front that of the score from which on a span is an entity: a span is one
    where another logit is the highest."""
    none = torch.full_like(cells[..., :1], ENTITY_THRESHOLD).logit()
    return torch.cat([none, cells], dim=-1)


def entity_table_losses(logits: Tensor, known: Annotated, words: Tensor) -> Tensor:
    """(B,) binary cross-entropy summed over all spans and types, by the sentence's words.

    Args:
        logits: (B, S, L).
        words: (B,).
    """
    targets = torch.zeros_like(precise(logits))
    there = known.places >= 0
    row, item = there.nonzero(as_tuple=True)
    targets[row, known.places[row, item], known.types[row, item] - 1] = 1.0
    losses = F.binary_cross_entropy_with_logits(precise(logits), targets, reduction="none")
    if known.unknown is not None:
        unknown = known.unknown.spans(known.spans)[..., None] | known.unknown.entity_types[:, None]
        losses = losses * ((targets > 0) | ~unknown)
    return (losses.sum(dim=-1) * known.spans.valid).sum(dim=1) / words


def relation_table_losses(logits: Tensor, known: Annotated, words: Tensor) -> Tensor:
    """(B,) binary cross-entropy summed over all pairs of first words and types, by the sentence's words.

    Args:
        logits: (B, W, W, L).
        words: (B,).
    """
    targets = torch.zeros_like(precise(logits))
    row, item = (known.relations[..., 2] >= 0).nonzero(as_tuple=True)
    head, tail, kind = known.relations[row, item].unbind(-1)
    first = known.spans.words[..., 0]
    starts = [first[row, known.places[row, one]] for one in (head, tail)]
    targets[row, starts[0], starts[1], kind] = 1.0
    there = torch.arange(logits.shape[1], device=logits.device) < words[:, None]
    losses = F.binary_cross_entropy_with_logits(precise(logits), targets, reduction="none")
    if known.unknown is not None:
        losses = losses * ((targets > 0) | ~_unknown_cells(known, known.unknown, first, logits.shape[1]))
    losses = losses.sum(dim=-1)
    return (losses * there[:, :, None] * there[:, None]).sum(dim=(1, 2)) / words


def _unknown_cells(known: Annotated, unknown: Unknown, first: Tensor, words: int) -> Tensor:
    """(B, W, W, L), cells of which nothing is known.

    Args:
        first: (B, S) first word of every span.
    """
    spans = first.gather(1, known.places.clamp(min=0)).masked_fill(known.places < 0, -1)
    starts = [spans.gather(1, one.clamp(min=0)).masked_fill(one < 0, -1) for one in unknown.pairs.unbind(-1)]
    place = torch.arange(words, device=first.device)
    head, tail = ((one[..., None] == place).float() for one in starts)
    cells = torch.einsum("bmh,bmt->bht", head, tail) > 0
    outside = unknown.words
    cells = cells | outside[:, :, None] | outside[:, None]
    return cells[..., None] | unknown.relation_types[:, None, None]
