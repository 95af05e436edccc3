"""What the layers of one stack have in common."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from luthier.models.prompt_placement import positions_from_mask
from luthier.tuning.attached import AttachedLayer, placement
from luthier.tuning.blocks import Block
from luthier.tuning.unipelt.config import UniPELTConfig
from luthier.tuning.unipelt.parts import PrefixTable


class UniPELTStack(AttachedLayer):
    """The shared halves of a stack's prefix networks: PrefixTable by "self" and "cross", by adapter name.

    In a decoder with rotary positions a prefix stands at position 0, so that its distance to the text, and with it
    every logit, would depend on padding before the text. Positions are therefore counted without padding while an
    adapter with a prefix is active.
    """

    def __init__(self, stack: nn.Module, block: Block) -> None:
        super().__init__(stack, "unipelt_parts")
        takes_positions = "position_ids" in inspect.signature(type(stack).forward).parameters
        if block.causal and not block.stack and takes_positions:
            self.hook("", "before", self._count_positions)

    def table(self, name: str, site: str, block: Block, config: UniPELTConfig) -> PrefixTable:
        """The shared half of one adapter's network, made when there is none yet."""
        tables: Any = self.parts[name]
        if site not in tables:
            device, dtype = placement(block.module)
            width, hidden = block.width, config.prefix_projection_width
            tables[site] = PrefixTable(config.prefix_length, width, hidden, device, dtype)
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
