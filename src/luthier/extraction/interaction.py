"""How the two tasks see each other (SINET, section 3; variants for ablations).

Shapes: B sentences, T pieces, d width, m attention heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luthier.errors import ModelError
from luthier.extraction.partition import PartitionFilter


@dataclass
class TaskStates:
    """What the heads read.

    Attributes:
        entity, relation: (B, T, d), the pieces as each task sees them.
        entity_sentence, relation_sentence: (B, d), the sentence as each task sees it.
        shared: (B, T, d), what both tasks share, where the interaction tells it.
    """

    entity: Tensor
    relation: Tensor
    entity_sentence: Tensor
    relation_sentence: Tensor
    shared: Tensor | None = None


@dataclass
class Sentence:
    """Where a batch's text is.

    Attributes:
        mask: (B, T), pieces that may be attended to.
        text: (B, T), pieces that are no padding.
        first: (B,), the first piece.
        has_first: (B,), whether that piece stands for the sentence; where not, the mean over the text does.
    """

    mask: Tensor
    text: Tensor
    first: Tensor
    has_first: Tensor

    def vector(self, states: Tensor) -> Tensor:
        """(B, T, d) -> (B, d)."""
        first = states[torch.arange(len(states), device=states.device), self.first]
        weights = self.text.to(states.dtype)
        mean = (weights[:, None] @ states)[:, 0] / weights.sum(1, keepdim=True).clamp(min=1)
        return torch.where(self.has_first[:, None], first, mean)

    @property
    def others(self) -> Tensor:
        """(B, T), pieces that may be attended to, without the one that stands for the sentence."""
        place = torch.arange(self.mask.shape[1], device=self.mask.device)
        return self.mask & ~((place == self.first[:, None]) & self.has_first[:, None])


class CrossTaskAttention(nn.Module):
    """LN(q + Drop(Proj(Attn(q W_q, k W_k, k W_v)))) with m heads; no biases but the projection's."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            fitting = ", ".join(str(number) for number in range(1, width + 1) if width % number == 0)
            raise ModelError(
                f"`attention_heads` of a joint extraction head is {heads}, which does not divide the width {width}",
                fix=f"take one of {fitting}",
            )
        self.heads, self.dropout = heads, dropout
        self.queries, self.keys, self.values = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.merged = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """(B, N, d) queries over (B, M, d) keys, of which those in the (B, M) mask count -> (B, N, d)."""
        rate = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            self._parted(self.queries(queries)),
            self._parted(self.keys(keys)),
            self._parted(self.values(keys)),
            attn_mask=mask[:, None, None],
            dropout_p=rate,
        )
        joined = attended.transpose(1, 2).flatten(2)
        found: Tensor = self.norm(queries + F.dropout(self.merged(joined), rate))
        return found

    def _parted(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TaskInteraction(nn.Module):
    """The encoder's output as each task sees it."""

    def __init__(self, options: Any, width: int) -> None:
        super().__init__()
        self.options = options
        self.entity_projection, self.relation_projection = None, None
        if options.projects:
            self.entity_projection = nn.Linear(width, width, bias=options.projection_bias)
            self.relation_projection = nn.Linear(width, width, bias=options.projection_bias)
        self.partition = PartitionFilter(width) if options.interaction == "partition" else None
        # Attention into the entity task; relation_attention is that into the other one, where they differ.
        self.attention, self.relation_attention = nn.ModuleList(), nn.ModuleList()
        if options.interaction in ("cls_cross", "cls_self", "token_cross"):
            arguments = width, options.attention_heads, options.attention_dropout
            for _ in range(options.interaction_layers):
                self.attention.append(CrossTaskAttention(*arguments))
                if options.direction == "both" and not options.share_attention:
                    self.relation_attention.append(CrossTaskAttention(*arguments))

    def forward(self, states: Tensor, sentence: Sentence) -> TaskStates:
        """(B, T, d) -> the same for each task, and (B, d) sentence vectors."""
        if self.partition is not None:
            return TaskStates(*self.partition(states, sentence.text))
        entity = self._projected(states, self.entity_projection)
        relation = self._projected(states, self.relation_projection)
        if self.options.interaction == "token_cross":
            for layer in range(self.options.interaction_layers):
                entity, relation = (
                    self._tokens(self._into_entity(layer), entity, relation, sentence),
                    self._tokens(self._into_relation(layer), relation, entity, sentence),
                )
        entity_vector, relation_vector = sentence.vector(entity), sentence.vector(relation)
        if self.options.interaction in ("cls_cross", "cls_self"):
            own = self.options.interaction == "cls_self"
            for layer in range(self.options.interaction_layers):
                entity_vector, relation_vector = (
                    self._vector(self._into_entity(layer), entity_vector, entity if own else relation, sentence),
                    self._vector(self._into_relation(layer), relation_vector, relation if own else entity, sentence),
                )
        return TaskStates(entity, relation, entity_vector, relation_vector)

    def _projected(self, states: Tensor, projection: nn.Linear | None) -> Tensor:
        if projection is None:
            return states
        found: Tensor = projection(states)
        activation = self.options.projection_activation
        return found if activation == "none" else getattr(F, activation)(found)

    def _into_entity(self, layer: int) -> nn.Module | None:
        return None if self.options.direction == "re_from_ner" else self.attention[layer]

    def _into_relation(self, layer: int) -> nn.Module | None:
        if self.options.direction == "ner_from_re":
            return None
        return (self.relation_attention if len(self.relation_attention) else self.attention)[layer]

    def _vector(self, attention: nn.Module | None, vector: Tensor, others: Tensor, sentence: Sentence) -> Tensor:
        """One (B, d) sentence vector that attends to (B, T, d) pieces, and to itself."""
        if attention is None:
            return vector
        query, keys, mask = vector[:, None], others, sentence.others
        if self.options.own_vector_in_keys:
            keys = torch.cat([keys, query], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        attended: Tensor = attention(query, keys, mask)
        return attended[:, 0]

    def _tokens(self, attention: nn.Module | None, own: Tensor, others: Tensor, sentence: Sentence) -> Tensor:
        if attention is None:
            return own
        attended: Tensor = attention(own, others, sentence.mask)
        return attended
