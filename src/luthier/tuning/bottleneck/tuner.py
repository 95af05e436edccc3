"""Bottleneck adapters as a PEFT tuner."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from luthier.models.layers.attached import AttachedLayer, AttachedTuner, placement
from luthier.models.layers.blocks import Block
from luthier.peft_bridge.registration import register_tuner
from luthier.tuning.bottleneck.adapter import Bottleneck
from luthier.tuning.bottleneck.config import BottleneckConfig


class BottleneckLayer(AttachedLayer):
    """The adapters of one transformer layer. With x a sub-layer's output, a the residual and N the norm after it:

    houlsby    x + A(x), in the place of x
    pfeiffer   N(x + a + A(N(x + a))), in the place of N(x + a); N is the identity where the layer has no such norm
    """

    def __init__(self, block: Block) -> None:
        super().__init__(block.module, "bottleneck_parts")
        self.block_output = block.output_norm is None

    def add(self, name: str, parts: nn.ModuleDict, block: Block) -> None:
        """Add an adapter; `parts` has `output`, or `attention` and `feed_forward`."""
        self.parts[name] = parts
        if "output" not in parts:
            self.hook(block.attention_output, "after", self._after_attention)
            self.hook(block.feed_forward_output, "after", self._after_feed_forward)
        elif block.output_norm is not None:
            self.hook(block.output_norm, "after", self._after_norm)
        else:
            self.hook("", "after", self._after_layer)

    def _after_attention(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self._added("attention", output)

    def _after_feed_forward(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self._added("feed_forward", output)

    def _after_norm(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        added = self._added("output", output)
        # The norm's own forward: its call would run this hook again.
        return output if isinstance(added, float) else module.forward(args[0] + added)

    def _after_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + self._added("output", output[0]), *output[1:])
        return output + self._added("output", output)

    def _added(self, place: str, states: torch.Tensor) -> torch.Tensor | float:
        total: torch.Tensor | float = 0.0
        for parts in self.active_parts():
            if place in parts:
                total = total + parts[place](states)
        return total


class BottleneckModel(AttachedTuner):
    """Bottleneck adapters in a model."""

    prefix = "bottleneck_"
    child_name = "bottleneck"

    def wanted(self, blocks: list[Block], config: BottleneckConfig) -> list[Block]:
        return [block for block in blocks if block.index >= config.drop_first_layers]

    def attach(self, block: Block, config: BottleneckConfig, adapter_name: str) -> None:
        device, dtype = placement(block.module)
        places = ("output",) if config.placement == "pfeiffer" else ("attention", "feed_forward")
        layer = self.child_of(block.module, lambda: BottleneckLayer(block))
        parts = {
            place: Bottleneck(
                block.width,
                config.hidden_width(block.width),
                activation=config.activation,
                init=config.init,
                dropout=config.dropout,
                device=device,
                dtype=dtype,
            )
            for place in places
        }
        layer.add(adapter_name, nn.ModuleDict(parts), block)


register_tuner("bottleneck", BottleneckConfig, BottleneckModel, prefix="bottleneck_")
