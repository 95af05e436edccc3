"""Trained keys and values of attention modules: as flat tables, or made by a network that all layers of a stack share.

Shapes: L prefix length, D width, G key/value heads, d width of a head.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from luthier.models.layers.attached import AttachedLayer, placement
from luthier.models.layers.blocks import Block
from luthier.peft_bridge.prompt_placement import positions_from_mask


class PrefixTable(nn.Module):
    """The table E (L, D) and the first half of the network, which all layers of a stack share: tanh(W_1 E + b_1)."""

    def __init__(
        self, length: int, width: int, hidden: int, device: torch.device, dtype: torch.dtype, std: float = 0.02
    ) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, width, device=device, dtype=dtype).normal_(std=std))
        self.hidden = _linear(width, hidden, device, dtype)

    def forward(self) -> torch.Tensor:
        """(L, hidden)."""
        return torch.tanh(self.hidden(self.table))


class FlatPrefix(nn.Module):
    """Keys and values of one attention module, each (L, G d)."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor) -> None:
        super().__init__()
        self.key, self.value = nn.Parameter(key), nn.Parameter(value)

    @classmethod
    def drawn(cls, length: int, width: int, device: torch.device, dtype: torch.dtype, std: float = 0.02) -> FlatPrefix:
        """Keys and values from N(0, std)."""
        key, value = (torch.empty(length, width, device=device, dtype=dtype).normal_(std=std) for _ in range(2))
        return cls(key, value)

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.key, self.value


class ProjectedPrefix(nn.Module):
    """Keys and values as rows of the network's last linear layer, W_2 tanh(W_1 E + b_1) + b_2.

    The rows of W_2 that belong to one layer are a parameter of that layer; together they are the paper's one matrix.
    """

    def __init__(self, shared: PrefixTable, width: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        # In a tuple: the shared half is a child of the stack.
        self._shared = (shared,)
        self.up = _linear(shared.hidden.out_features, 2 * width, device, dtype)

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = self.up(self._shared[0]()).chunk(2, dim=-1)
        return key, value

    @torch.no_grad()
    def folded(self) -> FlatPrefix:
        """The keys and values that the network makes now, as trainable as it is."""
        flat = FlatPrefix(*(states.clone() for states in self()))
        flat.requires_grad_(self.up.weight.requires_grad)
        return flat


class PrefixStack(AttachedLayer):
    """The shared halves of a stack's prefix networks: PrefixTable by "self" and "cross", by adapter name.

    In a decoder with rotary positions a prefix stands at position 0, so that its distance to the text, and with it
    every logit, would depend on padding before the text. Positions are therefore counted without padding while an
    adapter is active.
    """

    def __init__(self, stack: nn.Module, block: Block, parts_name: str) -> None:
        super().__init__(stack, parts_name)
        takes_positions = "position_ids" in inspect.signature(type(stack).forward).parameters
        if block.causal and not block.stack and takes_positions:
            self.hook("", "before", self._count_positions)

    def table(self, name: str, site: str, block: Block, length: int, hidden: int, std: float = 0.02) -> PrefixTable:
        """The shared half of one adapter's network, made when there is none yet."""
        tables: Any = self.parts[name]
        if site not in tables:
            tables[site] = PrefixTable(length, block.width, hidden, *placement(block.module), std)
        found: PrefixTable = tables[site]
        return found

    def _count_positions(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask, embeds = kwargs.get("attention_mask"), kwargs.get("inputs_embeds")
        inputs = kwargs.get("input_ids", args[0] if args else None) if embeds is None else embeds
        if inputs is None or kwargs.get("position_ids") is not None:
            return None
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
            return None
        if not any(True for _ in self.active_parts()):
            return None
        return args, {**kwargs, "position_ids": positions_from_mask(mask)[:, -inputs.shape[1] :]}


def _linear(inputs: int, outputs: int, device: torch.device, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device=device, dtype=dtype)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def prefix_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that make prefixes: keys and values, or the tables and networks behind them."""
    kinds = (PrefixTable, FlatPrefix, ProjectedPrefix)
    return {id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters()}
