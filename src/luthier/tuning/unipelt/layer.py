"""UniPELT in one transformer layer: the gates, the trained parts, and the hooks that run them.

With h what the attention module reads (post-norm layers: the layer's input), a the attention's output, f the
feed-forward output before residual and norm, N the norm behind it, and g the gates:

    gate       g = pool over t of sigmoid(w h_t + b)
    LoRA       W h + g B A h                          on the projections of queries, keys, values
    prefix     [g P_k ; K], [g P_v ; V]
    adapter    u = N(f + a),  N(f + a + g A(u))       without N where a layer norms before its sub-layers
    bitfit     b + g c                                for every bias term b

Source: figure 2 and section 3 of Mao et al., ACL 2022; two norms in a row are those of the Pfeiffer placement.
Shapes: B examples, T tokens, D width, r rank, L prefix length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from luthier.methods.gates import CentralGate, Gate, GatedLayer, Pooling, pooling_of
from luthier.methods.prefix_table import PrefixLayer
from luthier.models.layers.attached import argument_of, placement, visible_tokens
from luthier.models.layers.attention_prefix import KeyValuePrefix
from luthier.models.layers.blocks import Block, Projection, argument_place
from luthier.models.layers.disentangled_prefix import is_disentangled
from luthier.tuning.bottleneck.tuner import Bottleneck
from luthier.tuning.unipelt.settings import UniPELTOptions

Factor = torch.Tensor | float


class LowRank(nn.Module):
    """B A x, with A (r, inputs) drawn Kaiming-uniform and B (outputs, r) zero; `gate` is the name of its gate."""

    def __init__(self, projection: Projection, rank: int, gate: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.projection, self.gate = projection, gate
        self.a = nn.Parameter(torch.empty(rank, projection.inputs, device=device, dtype=dtype))
        self.b = nn.Parameter(torch.zeros(projection.outputs, rank, device=device, dtype=dtype))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def add_to(self, output: torch.Tensor, states: torch.Tensor, factor: Factor) -> torch.Tensor:
        """Add B A x, times a number or a factor (B, 1 or T, 1), to the projection's columns of `output`."""
        # The factor meets the r inner numbers of a token, not its D outer ones.
        added = F.linear(F.linear(states.to(self.a.dtype), self.a) * factor, self.b).to(output.dtype)
        before, after = self.projection.start, output.shape[-1] - self.projection.stop
        return output + (F.pad(added, (before, after)) if before or after else added)


class Parts(nn.Module):
    """The trained parts of one adapter in one layer. What the options leave out is an empty dictionary, or None.

    Args:
        pooling: how gates are pooled in this layer.
        sites: which of "self" and "cross" get a prefix.
        make_prefix: gives a site's prefix.

    Attributes:
        lora: LowRank by "self-query", "cross-value", ...
        adapter: the bottleneck.
        shifts: added to bias terms, by path of the module below the layer with "/" for ".".
        prefix: FlatPrefix or ProjectedPrefix by "self" and "cross".
        learned_gates: Gate by "adapter", "bitfit", "prefix-self", "lora-self-query", ...; the shared gate of all LoRA
            targets of an attention module is "lora-self".
        constants: numbers by such names, for what has no learned gate.
        central: CentralGate by "self" and "cross", where there is a prefix.
    """

    def __init__(
        self,
        config: UniPELTOptions,
        block: Block,
        pooling: str,
        sites: Sequence[str],
        make_prefix: Callable[[str], nn.Module],
    ) -> None:
        super().__init__()
        self.config, self.pooling = config, pooling
        self.lora, self.prefix, self.learned_gates = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.central, self.shifts = nn.ModuleDict(), nn.ParameterDict()
        self.adapter: Bottleneck | None = None
        self.constants: dict[str, float] = {}
        self._place = placement(block.module)
        # Where the central gate stands in the place of those of LoRA and prefix.
        self._replaced = set(sites) if config.central_gate_replaces else set()
        if "lora" in config.parts:
            for site, attention in block.attentions.items():
                for role in config.lora_targets:
                    projection = attention.projections[role]
                    gate = f"lora-{site}" if config.shared_lora_gate else f"lora-{site}-{role}"
                    self.lora[f"{site}-{role}"] = LowRank(projection, config.lora_rank, gate, *self._place)
                    self._add_gate(gate, projection.inputs)
        if "adapter" in config.parts and block.index >= config.drop_first_layers:
            self.adapter = Bottleneck.beside(block, config, prefix="adapter_")
            self._add_gate("adapter", block.width)
        if "bitfit" in config.parts:
            self._add_shifts(block)
        for site in sites:
            self.prefix[site], width = make_prefix(site), block.attentions[site].projections["query"].inputs
            self._add_gate(f"prefix-{site}", width)
            if config.add_central_gate:
                self.central[site] = CentralGate(width, *self._place)

    def _add_gate(self, name: str, width: int) -> None:
        """Put the gate of this name before a part, or the number that the options have in its place."""
        part: Any
        part, *site = name.split("-")[:2]
        kind = self.config.gate_of(part)
        if self._replaced.intersection(site):
            self.constants[name] = 1.0
        elif kind == "none":
            self.constants[name] = self.config.lora_alpha / self.config.lora_rank if part == "lora" else 1.0
        elif kind != "learned":
            self.constants[name] = float(kind)
        elif name not in self.learned_gates:
            self.learned_gates[name] = Gate(width, *self._place)

    def _add_shifts(self, block: Block) -> None:
        # A gate is known from the attention on, and position projections read no example's states.
        early = block.norms_before_attention if self.config.gate_of("bitfit") == "learned" else ()
        biases = block.bias_terms(skip=(*early, *block.position_projections))
        if not biases:
            raise ValueError("the layers of this model have no bias terms, so that bitfit has nothing to train")
        device, dtype = self._place
        for path, size in biases.items():
            self.shifts[path.replace(".", "/")] = nn.Parameter(torch.zeros(size, device=device, dtype=dtype))
        self._add_gate("bitfit", block.width)


@dataclass
class _Passing:
    """What one forward of the layer hands from hook to hook.

    Attributes:
        visible: (B, T), true for text; None where there is no padding.
        states: what the self-attention reads, in DeBERTa.
        poolings: by kind.
        prefixes: of the active adapters, by "self" and "cross".
        shift_gates: the values of gates before bias shifts, by id of the parts.
    """

    visible: torch.Tensor | None = None
    states: torch.Tensor | None = None
    poolings: dict[str, Pooling] = field(default_factory=dict)
    prefixes: dict[str, list[KeyValuePrefix]] = field(default_factory=dict)
    shift_gates: dict[int, Factor] = field(default_factory=dict)


class UniPELTLayer(PrefixLayer, GatedLayer):
    """The parts of all adapters in one transformer layer, and the hooks that run those of the active ones."""

    def __init__(self, block: Block) -> None:
        super().__init__(block, "unipelt_parts")
        self.stack, self.index = block.stack, block.index
        self._passing = _Passing()
        self._norm = block.output_norm
        self._states_at = {
            site: argument_place(type(attention.module).forward, ("hidden_states",))
            for site, attention in block.attentions.items()
        }
        attention = block.self_attention.module
        self._mask_at = argument_place(type(attention).forward, ("attention_mask", "mask"))
        self._disentangled = is_disentangled(attention)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model starts with no forward under way.
        return {**self.__dict__, "_passing": _Passing()}

    def add(self, name: str, parts: Parts, block: Block) -> None:
        """Add an adapter, and the hooks that its parts need."""
        self.parts[name] = parts
        for site, attention in block.attentions.items():
            if site == "self" or site in parts.prefix:
                self.hook(attention.path, "before", partial(self._before_attention, site))
            if site in parts.prefix:
                self.provide(site, attention)
        if self._disentangled:
            self.hook(block.self_attention.path, "after", self._after_self_attention)
        low_ranks: Any = parts.lora.values()
        paths = {path.replace("/", ".") for path in parts.shifts} | {one.projection.path for one in low_ranks}
        for path in paths - {self._norm}:
            self.hook(path, "after", partial(self._after_module, path))
        if parts.adapter is not None or self._norm in paths:
            self.hook_output(self._norm)

    def prefixes(self, site: str, attention: nn.Module) -> list[KeyValuePrefix]:
        return self._passing.prefixes.pop(site)

    def _before_attention(self, site: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = argument_of(self._states_at[site], args, kwargs)
        if site == "self":
            self._begin(states, argument_of(self._mask_at, args, kwargs))
        prefixes = self._passing.prefixes[site] = []
        for parts in self.active_parts():
            if site in parts.prefix:
                self.keep_serving(module)
                key, value = self.keys_and_values(site, parts.prefix[site])
                factor: Any = self._factor(parts, f"prefix-{site}", states, f"{site}-prefix")
                if isinstance(factor, torch.Tensor) and parts.pooling == "per_token":
                    prefixes.append(KeyValuePrefix(key, value, query_gate=factor))
                else:
                    factor = factor[..., None] if isinstance(factor, torch.Tensor) else factor
                    prefixes.append(KeyValuePrefix(key * factor, value * factor))

    def _begin(self, states: torch.Tensor, mask: torch.Tensor | None) -> None:
        passing = self._passing = _Passing(states=states if self._disentangled else None)
        active = list(self.active_parts())
        if self.record is not None or any(parts.pooling in ("mask_aware", "first_token") for parts in active):
            passing.visible = visible_tokens(mask, self._disentangled)
        for parts in active:
            if parts.pooling not in passing.poolings:
                passing.poolings[parts.pooling] = pooling_of(parts.pooling, passing.visible, states.dtype)
            if "bitfit" in parts.learned_gates:
                passing.shift_gates[id(parts)] = self._factor(parts, "bitfit", states)

    def _after_self_attention(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._passing.states = None

    def _after_module(self, path: str, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        if self._passing.states is not None and args[0] is not self._passing.states:
            # DeBERTa projects its position embeddings, which belong to no example, with the same layers.
            return output
        for parts in self.active_parts():
            for target, low_rank in parts.lora.items():
                if low_rank.projection.path == path:
                    factor = self._factor(parts, low_rank.gate, args[0], target)
                    output = low_rank.add_to(output, args[0], factor)
        shift = self._shift(path, args[0])
        return output if shift is None else output + shift

    def after_norm(self, norm: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        shift = self._shift(self._norm or "", args[0])
        if shift is None:
            return super().after_norm(norm, args, output)
        output = output + shift
        summed = self.adapted(args[0], output)
        return output if summed is None else norm.forward(summed) + shift

    def adapted(self, total: torch.Tensor, states: torch.Tensor) -> torch.Tensor | None:
        result = None
        for parts in self.active_parts():
            if parts.adapter is not None:
                factor = self._factor(parts, "adapter", states)
                factor = factor.to(states.dtype) if isinstance(factor, torch.Tensor) else states.new_tensor(factor)
                result = torch.addcmul(total if result is None else result, parts.adapter(states), factor)
        return result

    def _shift(self, path: str, states: torch.Tensor) -> torch.Tensor | None:
        """The sum of g c over the active adapters for the bias term of one module."""
        total, key = None, path.replace(".", "/")
        for parts in self.active_parts():
            if key in parts.shifts:
                gated = "bitfit" in parts.learned_gates
                factor = self._passing.shift_gates[id(parts)] if gated else parts.constants["bitfit"]
                shift = (parts.shifts[key] * factor).to(states.dtype)
                total = shift if total is None else total + shift
        return total

    def _factor(self, parts: Parts, gate: str, states: torch.Tensor, receiver: str = "") -> Factor:
        """What multiplies a part: the value of its gate on `states`, (B, 1 or T, 1), or a number.

        Args:
            receiver: "self-query", "cross-prefix" or the like, which gets a share of the central gate where there is
                one.
        """
        pool = self._passing.poolings[parts.pooling]
        factor: Factor | None = parts.constants.get(gate)
        if factor is None:
            factor = parts.learned_gates[gate](states, pool)
            self._note(gate, factor)
        site, _, name = receiver.partition("-")
        if site in parts.central:
            shares = parts.central[site](states, pool)
            share = shares[..., 1:] if name == "prefix" else shares[..., :1]
            self._note(f"central-{receiver}", share)
            factor = factor * share
        return factor

    def _note(self, gate: str, value: Any) -> None:
        if self.record is not None:
            self.record.note(self.stack, self.index, gate, value, self._passing.visible)
