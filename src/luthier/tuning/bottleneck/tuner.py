"""Bottleneck adapters as a PEFT tuner.

Sources: Houlsby et al., ICML 2019; Pfeiffer et al., EACL 2021; the form of the Pfeiffer placement is that of Mao et
al., ACL 2022. Shapes: B examples, T tokens, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from luthier.models.layers.attached import AttachedConfig, AttachedLayer, AttachedTuner, placement
from luthier.models.layers.blocks import Block
from luthier.peft_bridge.registration import register_tuner
from luthier.tuning.bottleneck.settings import BottleneckOptions, hidden_width

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


@dataclass
class BottleneckConfig(BottleneckOptions, AttachedConfig):
    """Configuration of bottleneck adapters: two thin matrices with a non-linearity between them, in every layer.

    Raises:
        ValueError: a value out of range, or an option that would have no effect.
    """

    adapter_type = "BOTTLENECK"


class Bottleneck(nn.Module):
    """W_up act(W_down x): D -> hidden -> D, with biases and without a residual connection.

    Args:
        width: D.
        hidden: width in between.
        activation, init, dropout: as in `BottleneckOptions`.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str = "relu",
        init: str = "normal",
        dropout: float = 0.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden, device=device, dtype=dtype)
        self.up = nn.Linear(hidden, width, device=device, dtype=dtype)
        self.activation, self.dropout = activation, dropout
        for linear in (self.down, self.up):
            nn.init.zeros_(linear.bias)
            if init == "near_identity":
                nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
            else:
                nn.init.normal_(linear.weight, std=0.02)
        if init == "identity":
            nn.init.zeros_(self.up.weight)

    @classmethod
    def beside(cls, block: Block, options: Any, prefix: str = "") -> Bottleneck:
        """One for a transformer layer, on its device.

        Args:
            options: those of `BottleneckOptions`.
            prefix: what their names begin with there.
        """
        device, dtype = placement(block.module)
        named = {name: getattr(options, prefix + name) for name in ("activation", "init", "dropout")}
        hidden = hidden_width(block.width, *(getattr(options, prefix + name) for name in ("bottleneck", "reduction")))
        return cls(block.width, hidden, **named, device=device, dtype=dtype)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D), in the dtype of `states`."""
        hidden = _ACTIVATIONS[self.activation](self.down(states.to(self.down.weight.dtype)))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return self.up(hidden).to(states.dtype)


class BottleneckLayer(AttachedLayer):
    """The adapters of one transformer layer. With x a sub-layer's output, a the residual and N the norm after it:

    houlsby    x + A(x), in the place of x
    pfeiffer   N(x + a + A(N(x + a))), in the place of N(x + a); N is the identity where the layer has no such norm
    """

    def __init__(self, block: Block) -> None:
        super().__init__(block.module, "bottleneck_parts")

    def add(self, name: str, parts: nn.ModuleDict, block: Block) -> None:
        """Add an adapter; `parts` has `output`, or `attention` and `feed_forward`."""
        self.parts[name] = parts
        if "output" not in parts:
            self.hook(block.attention_output, "after", self._after_attention)
            self.hook(block.feed_forward_output, "after", self._after_feed_forward)
        else:
            self.hook_output(block.output_norm)

    def _after_attention(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self._added("attention", output)

    def _after_feed_forward(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self._added("feed_forward", output)

    def adapted(self, total: torch.Tensor, states: torch.Tensor) -> torch.Tensor | None:
        added = self._added("output", states)
        return None if isinstance(added, float) else total + added

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
    parts_name = "bottleneck_parts"

    def wanted(self, blocks: list[Block], config: BottleneckConfig) -> list[Block]:
        return [block for block in blocks if block.index >= config.drop_first_layers]

    def attach(self, block: Block, config: BottleneckConfig, adapter_name: str) -> None:
        places = ("output",) if config.placement == "pfeiffer" else ("attention", "feed_forward")
        layer = self.child_of(block.module, lambda: BottleneckLayer(block))
        parts = {place: Bottleneck.beside(block, config) for place in places}
        layer.add(adapter_name, nn.ModuleDict(parts), block)


register_tuner("bottleneck", BottleneckConfig, BottleneckModel, prefix="bottleneck_")
