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
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from luthier.methods.gates import CentralGate, Gate, GatedLayer, Pooling, pooling_of
from luthier.methods.prefix_table import PrefixLayer, PrefixTable, new_prefix
from luthier.models.layers.attached import argument_of, placement, visible_tokens
from luthier.models.layers.attention_prefix import KeyValuePrefix
from luthier.models.layers.blocks import Attention, Block, Projection, argument_place
from luthier.models.layers.disentangled_prefix import is_disentangled
from luthier.tuning.bottleneck.tuner import Bottleneck
from luthier.tuning.unipelt.options import Part, UniPELTOptions

Factor = torch.Tensor | float


class LowRank(nn.Module):
    """B A x, with A (r, inputs) drawn Kaiming-uniform and B (outputs, r) zero."""

    def __init__(self, projection: Projection, rank: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.start, self.stop = projection.start, projection.stop
        self.a = nn.Parameter(torch.empty(rank, projection.inputs, device=device, dtype=dtype))
        self.b = nn.Parameter(torch.zeros(projection.outputs, rank, device=device, dtype=dtype))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def add_to(self, output: torch.Tensor, states: torch.Tensor, factor: Factor) -> torch.Tensor:
        """Add B A x, times a number or a factor (B, 1 or T, 1), to its columns of `output`."""
        # The factor meets the r inner numbers of a token, not its D outer ones.
        added = F.linear(F.linear(states.to(self.a.dtype), self.a) * factor, self.b).to(output.dtype)
        after = output.shape[-1] - self.stop
        return output + (F.pad(added, (self.start, after)) if self.start or after else added)


class Parts(nn.Module):
    """The trained parts of one adapter in one layer. What the options leave out is an empty dictionary, or None.

    Args:
        pooling: how gates are pooled in this layer.
        sites: which of "self" and "cross" get a prefix, by `add_prefix`.

    Attributes:
        lora: LowRank by "self-query", "cross-value", ...
        prefix: FlatPrefix or ProjectedPrefix by "self" and "cross".
        adapter: the bottleneck.
        shifts: added to bias terms, by path of the module below the layer with "/" for ".".
        learned_gates: Gate by "adapter", "bitfit", "prefix-self", "lora-self-query", ...; the shared gate of all LoRA
            targets of an attention module is "lora-self".
        central: CentralGate by "self" and "cross", where there is a prefix.
    """

    def __init__(self, config: UniPELTOptions, block: Block, pooling: str, sites: Sequence[str]) -> None:
        super().__init__()
        self.config, self.pooling = config, pooling
        self.lora, self.prefix, self.learned_gates = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.central, self.shifts = nn.ModuleDict(), nn.ParameterDict()
        self.adapter: Bottleneck | None = None
        self._place = placement(block.module)
        self._replaced = set(sites) if config.central_gate_replaces else set()
        if "lora" in config.parts:
            for site, attention in block.attentions.items():
                self._add_lora(site, attention)
        if "adapter" in config.parts and block.index >= config.drop_first_layers:
            self._add_adapter(block)
        if "bitfit" in config.parts:
            self._add_shifts(block)

    def add_prefix(self, site: str, attention: Attention, table: PrefixTable | None) -> None:
        """Add the prefix of one attention module.

        Args:
            table: the shared half of the network that makes it; None draws flat keys and values.
        """
        self.prefix[site] = new_prefix(self.config.prefix_length, attention, table, self._place)
        width = attention.projections["query"].inputs
        self._add_gate("prefix", f"prefix-{site}", width)
        if self.config.add_central_gate:
            self.central[site] = CentralGate(width, *self._place)

    def factor(self, part: Part, name: str, states: torch.Tensor, pool: Pooling | None = None) -> Factor:
        """What multiplies a part: the value on `states` of its gate of this name, or a number.

        Args:
            pool: of learned gates.
        """
        if name in self.learned_gates:
            value: torch.Tensor = self.learned_gates[name](states, pool)
            return value
        kind = self.config.gate_of(part)
        if self._is_replaced(name) or (kind == "none" and part != "lora"):
            return 1.0
        return self.config.lora_alpha / self.config.lora_rank if kind == "none" else float(kind)

    def lora_gate(self, site: str, role: str) -> str:
        """The name of the gate of a LoRA target."""
        return f"lora-{site}" if self.config.shared_lora_gate else f"lora-{site}-{role}"

    def _add_lora(self, site: str, attention: Attention) -> None:
        for role in self.config.lora_targets:
            projection = attention.projections[role]
            self.lora[f"{site}-{role}"] = LowRank(projection, self.config.lora_rank, *self._place)
            self._add_gate("lora", self.lora_gate(site, role), projection.inputs)

    def _add_adapter(self, block: Block) -> None:
        config = self.config
        self.adapter = Bottleneck.beside(
            block,
            bottleneck=config.adapter_bottleneck,
            reduction=config.adapter_reduction,
            activation=config.adapter_activation,
            init=config.adapter_init,
            dropout=config.adapter_dropout,
        )
        self._add_gate("adapter", "adapter", block.width)

    def _add_shifts(self, block: Block) -> None:
        # A gate is known from the attention on, and position projections read no example's states.
        early = block.norms_before_attention if self.config.gate_of("bitfit") == "learned" else ()
        biases = block.bias_terms(skip=(*early, *block.position_projections))
        if not biases:
            raise ValueError("the layers of this model have no bias terms, so that bitfit has nothing to train")
        for path, size in biases.items():
            device, dtype = self._place
            self.shifts[path.replace(".", "/")] = nn.Parameter(torch.zeros(size, device=device, dtype=dtype))
        self._add_gate("bitfit", "bitfit", block.width)

    def _add_gate(self, part: Part, name: str, width: int) -> None:
        learned = self.config.gate_of(part) == "learned" and not self._is_replaced(name)
        if learned and name not in self.learned_gates:
            self.learned_gates[name] = Gate(width, *self._place)

    def _is_replaced(self, gate: str) -> bool:
        """Whether the central gate stands in the place of the gate "lora-<site>..." or "prefix-<site>"."""
        return not self._replaced.isdisjoint(gate.split("-")[1:2])


@dataclass
class _Passing:
    """What one forward of the layer hands from hook to hook.

    Attributes:
        visible: (B, T), true for text; None where there is no padding.
        states: what the self-attention reads, in DeBERTa.
        poolings: by kind.
        factors: of the bias shifts and of the prefixes, by id of the parts and "bitfit", "self" or "cross".
    """

    visible: torch.Tensor | None = None
    states: torch.Tensor | None = None
    poolings: dict[str, Pooling] = field(default_factory=dict)
    factors: dict[tuple[int, str], Factor] = field(default_factory=dict)


class UniPELTLayer(PrefixLayer, GatedLayer):
    """The parts of all adapters in one transformer layer, and the hooks that run those of the active ones."""

    def __init__(self, block: Block) -> None:
        super().__init__(block, "unipelt_parts")
        self.stack, self.index = block.stack, block.index
        self._passing = _Passing()
        self._lora_at: dict[str, dict[str, tuple[str, str]]] = {}
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
        self.hook(block.self_attention.path, "before", self._before_self_attention)
        if block.cross_attention is not None and "cross" in parts.prefix:
            self.hook(block.cross_attention.path, "before", self._before_cross_attention)
        if self._disentangled:
            self.hook(block.self_attention.path, "after", self._after_self_attention)
        for site in parts.prefix:
            self.provide(site, block.attentions[site])
        paths = {path.replace("/", ".") for path in parts.shifts}
        for target in parts.lora:
            site, role = target.split("-")
            path = block.attentions[site].projections[role].path
            self._lora_at.setdefault(path, {})[target] = site, role
            paths.add(path)
        for path in paths - {self._norm}:
            self.hook(path, "after", partial(self._after_module, path))
        if self._norm is not None and (parts.adapter is not None or self._norm in paths):
            self.hook(self._norm, "after", self._after_norm)
        elif parts.adapter is not None:
            self.hook("", "after", self._after_layer)

    def prefixes(self, site: str, attention: nn.Module) -> list[KeyValuePrefix]:
        heads, width = self._heads[site]
        prefixes = []
        for parts in self.active_parts():
            if site not in parts.prefix:
                continue
            key, value = (states.view(-1, heads, width).transpose(0, 1)[None] for states in parts.prefix[site]())
            factor = self._passing.factors.pop((id(parts), site))
            if isinstance(factor, torch.Tensor) and parts.pooling == "per_token":
                prefixes.append(KeyValuePrefix(key, value, query_gate=factor))
                continue
            if isinstance(factor, torch.Tensor):
                factor = factor[..., None]
            prefixes.append(KeyValuePrefix(key * factor, value * factor))
        return prefixes

    def _before_self_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = argument_of(self._states_at["self"], args, kwargs)
        passing = self._passing = _Passing(states=states if self._disentangled else None)
        active = list(self.active_parts())
        if self.record is not None or any(parts.pooling in ("mask_aware", "first_token") for parts in active):
            passing.visible = visible_tokens(argument_of(self._mask_at, args, kwargs), self._disentangled)
        for parts in active:
            if parts.pooling not in passing.poolings:
                passing.poolings[parts.pooling] = pooling_of(parts.pooling, passing.visible, states.dtype)
            if "bitfit" in parts.learned_gates:
                passing.factors[id(parts), "bitfit"] = self._factor(parts, "bitfit", "bitfit", states)
        self._gate_prefixes("self", module, states)

    def _after_self_attention(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._passing.states = None

    def _before_cross_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._gate_prefixes("cross", module, argument_of(self._states_at["cross"], args, kwargs))

    def _gate_prefixes(self, site: str, attention: nn.Module, states: torch.Tensor) -> None:
        for parts in self.active_parts():
            if site in parts.prefix:
                self.keep_serving(attention)
                factor = self._factor(parts, "prefix", f"prefix-{site}", states)
                if site in parts.central:
                    factor = factor * self._share(parts, site, "prefix", states)
                self._passing.factors[id(parts), site] = factor

    def _after_module(self, path: str, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        if self._passing.states is not None and args[0] is not self._passing.states:
            # DeBERTa projects its position embeddings, which belong to no example, with the same layers.
            return output
        for parts in self.active_parts():
            for target, (site, role) in self._lora_at.get(path, {}).items():
                if target in parts.lora:
                    factor = self._factor(parts, "lora", parts.lora_gate(site, role), args[0])
                    if site in parts.central:
                        factor = factor * self._share(parts, site, role, args[0])
                    output = parts.lora[target].add_to(output, args[0], factor)
        shift = self._shift(path, args[0])
        return output if shift is None else output + shift

    def _after_norm(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        shift = self._shift(self._norm or "", args[0])
        output = output if shift is None else output + shift
        summed = self._adapted(args[0], output)
        if summed is None:
            return output
        # The norm's own forward: its call would run this hook again.
        normed: torch.Tensor = module.forward(summed)
        return normed if shift is None else normed + shift

    def _after_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        summed = self._adapted(states, states)
        if summed is None:
            return output
        return (summed, *output[1:]) if isinstance(output, tuple) else summed

    def _adapted(self, total: torch.Tensor, states: torch.Tensor) -> torch.Tensor | None:
        """total + g A(states), None where no adapter is active."""
        result = None
        for parts in self.active_parts():
            if parts.adapter is not None:
                factor = self._factor(parts, "adapter", "adapter", states)
                factor = factor.to(states.dtype) if isinstance(factor, torch.Tensor) else states.new_tensor(factor)
                result = torch.addcmul(total if result is None else result, parts.adapter(states), factor)
        return result

    def _shift(self, path: str, states: torch.Tensor) -> torch.Tensor | None:
        """The sum of g c over the active adapters for the bias term of one module."""
        total, key = None, path.replace(".", "/")
        for parts in self.active_parts():
            if key in parts.shifts:
                factor = self._passing.factors.get((id(parts), "bitfit"))
                if factor is None:
                    factor = parts.factor("bitfit", "bitfit", states)
                shift = (parts.shifts[key] * factor).to(states.dtype)
                total = shift if total is None else total + shift
        return total

    def _factor(self, parts: Parts, part: Part, gate: str, states: torch.Tensor) -> Factor:
        factor = parts.factor(part, gate, states, self._passing.poolings[parts.pooling])
        self._note(gate, factor)
        return factor

    def _share(self, parts: Parts, site: str, receiver: str, states: torch.Tensor) -> torch.Tensor:
        """The central gate's share, (B, 1 or T, 1), of the prefix or of LoRA on one projection."""
        shares = parts.central[site](states, self._passing.poolings[parts.pooling])
        share: torch.Tensor = shares[..., 1:] if receiver == "prefix" else shares[..., :1]
        self._note(f"central-{site}-{receiver}", share)
        return share

    def _note(self, gate: str, value: Factor) -> None:
        if self.record is not None and isinstance(value, torch.Tensor):
            self.record.note(self.stack, self.index, gate, value, self._passing.visible)
