"""The trained parts of one adapter in one transformer layer.

Source: section 3 of the paper. Shapes: B examples, T tokens, D width, r rank, L prefix length, G key/value heads, d
width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from luthier.methods.part_options import LEARNED, NO_GATE
from luthier.methods.prefix_table import FlatPrefix, PrefixTable, ProjectedPrefix
from luthier.models.layers.blocks import Attention, Block, Projection
from luthier.tuning.bottleneck.tuner import Bottleneck
from luthier.tuning.unipelt.config import UniPELTConfig
from luthier.tuning.unipelt.gates import CentralGate, Gate


class LowRank(nn.Module):
    """B A x, with A (r, inputs) drawn Kaiming-uniform and B (outputs, r) zero."""

    def __init__(self, projection: Projection, rank: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.start, self.stop = projection.start, projection.stop
        self.a = nn.Parameter(torch.empty(rank, projection.inputs, device=device, dtype=dtype))
        self.b = nn.Parameter(torch.zeros(projection.outputs, rank, device=device, dtype=dtype))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, states: torch.Tensor, factor: torch.Tensor | float) -> torch.Tensor:
        """(B, T, inputs) -> (B, T, outputs), times a number or a factor (B, 1 or T, 1)."""
        # The factor meets the r inner numbers of a token, not its D outer ones.
        return F.linear(F.linear(states.to(self.a.dtype), self.a) * factor, self.b)


class Parts(nn.Module):
    """Parts of one adapter in one layer. What a configuration leaves out is an empty dictionary, or None.

    Attributes:
        lora: LowRank by "self-query", "cross-value", ...
        prefix: FlatPrefix or ProjectedPrefix by "self" and "cross".
        adapter: the bottleneck.
        shifts: added to bias terms, by path of the module below the layer with "/" for ".".
        learned_gates: Gate by "adapter", "bitfit", "prefix-self", "lora-self-query", ...; the shared gate of all LoRA
            targets of an attention module is "lora-self".
    """

    def __init__(self, config: UniPELTConfig, block: Block, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.pooling = config.pooling_in(block)
        self.lora, self.prefix, self.learned_gates = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.central, self.shifts = nn.ModuleDict(), nn.ParameterDict()
        self.adapter: Bottleneck | None = None
        self._place: dict[str, Any] = {"device": device, "dtype": dtype}
        if "lora" in config.parts:
            self._add_lora(block)
        if "adapter" in config.parts and block.index >= config.drop_first_layers:
            self._add_adapter(block)
        if "bitfit" in config.parts:
            self._add_shifts(block)

    def add_prefix(self, site: str, attention: Attention, shared: PrefixTable | None) -> None:
        """Add the prefix of one attention module.

        Args:
            site: "self" or "cross".
            shared: the shared half of the network; None makes flat keys and values.
        """
        width = attention.key_value_heads * attention.head_width
        if shared is None:
            self.prefix[site] = FlatPrefix.drawn(self.config.prefix_length, width, **self._place)
        else:
            self.prefix[site] = ProjectedPrefix(shared, width, **self._place)
        inputs = attention.projections["query"].inputs
        self._add_gate("prefix", f"prefix-{site}", inputs)
        if self.config.add_central_gate and site not in self.central:
            self.central[site] = CentralGate(inputs, **self._place)

    def factor(self, part: str, gate: str, states: torch.Tensor, pooling: Any) -> torch.Tensor | float:
        """The gate's value on `states`, the fixed one, or 1."""
        if gate in self.learned_gates:
            value: torch.Tensor = self.learned_gates[gate](states, pooling)
            return value
        kind = self.config.gate_of(part)
        return 1.0 if kind == NO_GATE else float(kind)

    def lora_factor(self, site: str, role: str, states: torch.Tensor, pooling: Any) -> torch.Tensor | float:
        """What multiplies B A x: the gate in the place of alpha / r, or alpha / r without gate."""
        if self.config.gate_of("lora") == NO_GATE:
            return self.config.lora_alpha / self.config.lora_rank
        return self.factor("lora", self.lora_gate(site, role), states, pooling)

    def lora_gate(self, site: str, role: str) -> str:
        """The name of the gate of a LoRA target."""
        return f"lora-{site}" if self.config.shared_lora_gate else f"lora-{site}-{role}"

    def _add_lora(self, block: Block) -> None:
        for site, attention in block.attentions.items():
            for role in self.config.lora_targets:
                projection = attention.projections[role]
                self.lora[f"{site}-{role}"] = LowRank(projection, self.config.lora_rank, **self._place)
                gate = self.lora_gate(site, role)
                if gate not in self.learned_gates:
                    self._add_gate("lora", gate, projection.inputs)

    def _add_adapter(self, block: Block) -> None:
        config = self.config
        self.adapter = Bottleneck(
            block.width,
            config.adapter_width(block.width),
            activation=config.adapter_activation,
            init=config.adapter_init,
            dropout=config.adapter_dropout,
            **self._place,
        )
        self._add_gate("adapter", "adapter", block.width)

    def _add_shifts(self, block: Block) -> None:
        gated = self.config.gate_of("bitfit") == LEARNED
        early = block.norms_before_attention if gated else ()
        for path, size in bias_terms(block, skip=(*early, *block.position_projections)):
            self.shifts[path.replace(".", "/")] = nn.Parameter(torch.zeros(size, **self._place))
        self._add_gate("bitfit", "bitfit", block.width)

    def _add_gate(self, part: str, name: str, width: int) -> None:
        if self.config.gate_of(part) == LEARNED:
            self.learned_gates[name] = Gate(width, **self._place)


def bias_terms(block: Block, skip: tuple[str, ...]) -> list[tuple[str, int]]:
    """(path, size) of every bias term of a layer's own modules.

    Args:
        skip: modules left out: those that run before the gate of the layer is known, or on no example's states.

    Raises:
        ValueError: it has none.
    """
    found = [
        (path, module.bias.shape[0])
        for path, module in block.module.named_modules()
        if isinstance(module._parameters.get("bias"), nn.Parameter) and path not in skip and "_parts." not in path
    ]
    if not found:
        raise ValueError("the layers of this model have no bias terms, so that bitfit has nothing to train")
    return found
