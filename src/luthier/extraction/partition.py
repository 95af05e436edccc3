"""PFN's partition filter: a recurrent cell that parts what two tasks need (Yan et al., EMNLP 2021, section 3).

Shapes: B sentences, T pieces, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DROP_CONNECT = 0.1


class PartitionFilter(nn.Module):
    """Runs over the pieces from left to right; padding leaves the cell as it is."""

    def __init__(self, width: int, drop_connect: float = DROP_CONNECT) -> None:
        super().__init__()
        self.width, self.drop_connect = width, drop_connect
        self.from_input = nn.Linear(width, 5 * width)
        self.from_hidden = nn.Linear(width, 5 * width)
        self.next_cell = nn.Linear(3 * width, width)
        self.entity_global, self.relation_global = nn.Linear(2 * width, width), nn.Linear(2 * width, width)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Args:
            states: (B, T, d).
            mask: (B, T), pieces that are text.

        Returns:
            (B, T, d) entity and relation states, (B, d) global vectors of both, and the (B, T, d) shared states.
        """
        inputs = self.from_input(states)
        weight = F.dropout(self.from_hidden.weight, self.drop_connect, self.training)
        cell = hidden = states.new_zeros(states.shape[0], self.width)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(states.shape[1]):
            gates = inputs[:, t] + F.linear(hidden, weight, self.from_hidden.bias)
            entity, relation, shared = _parted(gates, cell)
            new = self.next_cell(torch.cat([relation, entity, shared], dim=-1))
            here = mask[:, t, None]
            cell, hidden = torch.where(here, new, cell), torch.where(here, new.tanh(), hidden)
            found.append((entity.tanh(), relation.tanh(), shared.tanh()))
        entity, relation, shared = (torch.stack(one, dim=1) for one in zip(*found, strict=True))
        return (
            entity,
            relation,
            _pooled(self.entity_global, shared, entity, mask),
            _pooled(self.relation_global, shared, relation, mask),
            shared,
        )


def _parted(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 5d) gates and the (B, d) old cell -> entity, relation and shared parts of the new one."""
    candidate, entity_old, relation_old, entity_new, relation_new = gates.chunk(5, dim=-1)
    candidate = candidate.tanh()
    shared = entity = relation = torch.zeros_like(cell)
    for value, for_entity, for_relation in (
        (cell, entity_old, relation_old),
        (candidate, entity_new, relation_new),
    ):
        of_entity = 1 - for_entity.softmax(dim=-1).cumsum(dim=-1)
        of_relation = for_relation.softmax(dim=-1).cumsum(dim=-1)
        both = of_entity * of_relation
        shared = shared + both * value
        entity = entity + (of_entity - both) * value
        relation = relation + (of_relation - both) * value
    return entity + shared, relation + shared, shared


def _pooled(layer: nn.Module, shared: Tensor, own: Tensor, mask: Tensor) -> Tensor:
    """max over the text of tanh(W [shared; own]): (B, d)."""
    values = layer(torch.cat([shared, own], dim=-1)).tanh()
    pooled: Tensor = values.masked_fill(~mask[..., None], -1.0).amax(dim=1)
    return pooled
