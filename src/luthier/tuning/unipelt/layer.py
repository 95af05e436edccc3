"""The forward of UniPELT in one transformer layer, as hooks on the modules inside it.

With h what the attention module reads (post-norm layers: the layer's input), a the attention's output, f the
feed-forward output before residual and norm, N the norm behind it, and g the gates:

    LoRA       W h + g B A h                          on the projections of queries, keys, values
    prefix     [g P_k ; K], [g P_v ; V]
    adapter    u = N(f + a),  N(f + a + g A(u))       without N where a layer norms before its sub-layers
    bitfit     b + g c                                for every bias term b

Source: figure 2 and section 3 of the paper; two norms in a row are those of the Pfeiffer placement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from luthier.models.layers.attached import AttachedLayer
from luthier.models.layers.attention_prefix import KeyValuePrefix, add_provider, remove_provider
from luthier.models.layers.blocks import Attention, Block, argument_place
from luthier.models.layers.disentangled_prefix import is_disentangled
from luthier.models.layers.serving import is_served, serve_prefixes
from luthier.tuning.unipelt.gates import Pooling, pooling_of, visible_tokens
from luthier.tuning.unipelt.parts import Parts
from luthier.tuning.unipelt.record import GateRecord, text_mean

_MASK_NAMES = ("attention_mask", "mask")
_STATES_NAMES = ("hidden_states",)


@dataclass
class _Passing:
    """What one forward of the layer hands from hook to hook. A copy of the model starts with an empty one."""

    visible: torch.Tensor | None = None
    states: torch.Tensor | None = None
    poolings: dict[str, Pooling] = field(default_factory=dict)
    factors: dict[tuple[int, str], torch.Tensor | float] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Passing:
        return _Passing()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Passing, ())


class UniPELTLayer(AttachedLayer):
    """The parts of one transformer layer.

    Args:
        block: the layer.
    """

    def __init__(self, block: Block) -> None:
        super().__init__(block.module, "unipelt_parts")
        self.stack, self.index = block.stack, block.index
        self.record: GateRecord | None = None
        self._passing = _Passing()
        self._providers: list[tuple[nn.Module, Any]] = []
        self._roles: dict[str, list[tuple[str, str]]] = {}
        self._heads = {site: (a.key_value_heads, a.head_width) for site, a in block.attentions.items()}
        self._norm = block.output_norm
        self._arguments = {
            site: argument_place(type(attention.module).forward, _STATES_NAMES)
            for site, attention in block.attentions.items()
        }
        attention = block.self_attention.module
        self._mask = argument_place(type(attention).forward, _MASK_NAMES)
        self._disentangled = is_disentangled(attention)

    def add(self, name: str, parts: Parts, block: Block) -> None:
        """Add an adapter, and the hooks that its parts need."""
        self.parts[name] = parts
        self.hook(block.self_attention.path, "before", self._before_self_attention)
        if block.cross_attention is not None and "cross" in parts.prefix:
            self.hook(block.cross_attention.path, "before", self._before_cross_attention)
        if self._disentangled:
            self.hook(block.self_attention.path, "after", self._after_self_attention)
        for site, attention in block.attentions.items():
            if site in parts.prefix:
                self._serve(site, attention)
        paths = self._lora_paths(block, parts) | {path.replace("/", ".") for path in parts.shifts}
        for path in paths - {self._norm}:
            self.hook(path, "after", partial(self._after_module, path))
        if self._norm is not None and (parts.adapter is not None or self._norm.replace(".", "/") in parts.shifts):
            self.hook(self._norm, "after", self._after_norm)
        elif parts.adapter is not None:
            self.hook("", "after", self._after_layer)

    def detach(self) -> None:
        super().detach()
        for module, provider in self._providers:
            remove_provider(module, provider)
        self._providers.clear()

    def _lora_paths(self, block: Block, parts: Parts) -> set[str]:
        paths = set()
        for key in parts.lora:
            site, role = key.split("-")
            path = block.attentions[site].projections[role].path
            known = self._roles.setdefault(path, [])
            if (site, role) not in known:
                known.append((site, role))
            paths.add(path)
        return paths

    def _serve(self, site: str, attention: Attention) -> None:
        if all(module is not attention.module for module, _ in self._providers):
            provider = partial(self._prefixes, site)
            add_provider(attention.module, provider)
            self._providers.append((attention.module, provider))

    def _before_self_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = _argument(self._arguments["self"], args, kwargs)
        passing = self._passing
        passing.visible, passing.poolings = None, {}
        passing.states = states if self._disentangled else None
        passing.factors.clear()
        active = list(self.active_parts())
        if self.record is not None or any(parts.pooling in ("mask_aware", "first_token") for parts in active):
            passing.visible = visible_tokens(_argument(self._mask, args, kwargs), self._disentangled)
        for parts in active:
            if parts.pooling not in passing.poolings:
                passing.poolings[parts.pooling] = pooling_of(parts.pooling, passing.visible, states.dtype)
            if "bitfit" in parts.learned_gates:
                passing.factors[id(parts), "bitfit"] = self._factor(parts, "bitfit", "bitfit", states)
        self._gate_prefixes("self", module, states)

    def _after_self_attention(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._passing.states = None

    def _before_cross_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._gate_prefixes("cross", module, _argument(self._arguments["cross"], args, kwargs))

    def _gate_prefixes(self, site: str, attention: nn.Module, states: torch.Tensor) -> None:
        for parts in self.active_parts():
            if site in parts.prefix:
                if not is_served(attention):
                    # The user has switched the attention implementation since.
                    serve_prefixes(attention, [attention])
                factor = self._factor(parts, "prefix", f"prefix-{site}", states)
                if site in parts.central:
                    factor = factor * parts.central[site](states, self._pooling(parts))[..., 1:]
                self._passing.factors[id(parts), site] = factor

    def _prefixes(self, site: str, attention: nn.Module) -> list[KeyValuePrefix]:
        """The provider of one attention module: a prefix for each active adapter that has one."""
        heads, width = self._heads[site]
        found = []
        for parts in self.active_parts():
            if site not in parts.prefix:
                continue
            key, value = (states.view(-1, heads, width).transpose(0, 1)[None] for states in parts.prefix[site]())
            factor = self._passing.factors.pop((id(parts), site))
            if isinstance(factor, torch.Tensor) and parts.pooling == "per_token":
                found.append(KeyValuePrefix(key, value, query_gate=factor))
                continue
            if isinstance(factor, torch.Tensor):
                factor = factor[..., None]
            found.append(KeyValuePrefix(key * factor, value * factor))
        return found

    def _after_module(self, path: str, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        if self._passing.states is not None and args[0] is not self._passing.states:
            # DeBERTa projects its position embeddings, which belong to no example, with the same layers.
            return output
        for parts in self.active_parts():
            for site, role in self._roles.get(path, ()):
                if f"{site}-{role}" in parts.lora:
                    low_rank = parts.lora[f"{site}-{role}"]
                    added = low_rank(args[0], self._lora_factor(parts, site, role, args[0])).to(output.dtype)
                    after = output.shape[-1] - low_rank.stop
                    output = output + (F.pad(added, (low_rank.start, after)) if low_rank.start or after else added)
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
                result = total if result is None else result
                result = torch.addcmul(result, parts.adapter(states), _tensor(factor, states))
        return result

    def _shift(self, path: str, states: torch.Tensor) -> torch.Tensor | None:
        """The sum of g c over the active adapters for the bias term of one module."""
        total, key = None, path.replace(".", "/")
        for parts in self.active_parts():
            if key in parts.shifts:
                known = self._passing.factors.get((id(parts), "bitfit"))
                factor = parts.factor("bitfit", "bitfit", states, None) if known is None else known
                shift = (parts.shifts[key] * factor).to(states.dtype)
                total = shift if total is None else total + shift
        return total

    def _lora_factor(self, parts: Parts, site: str, role: str, states: torch.Tensor) -> torch.Tensor | float:
        factor = parts.lora_factor(site, role, states, self._pooling(parts))
        self._note(parts.lora_gate(site, role), factor)
        if site in parts.central:
            factor = factor * parts.central[site](states, self._pooling(parts))[..., :1]
        return factor

    def _factor(self, parts: Parts, part: str, gate: str, states: torch.Tensor) -> torch.Tensor | float:
        factor = parts.factor(part, gate, states, self._pooling(parts))
        self._note(gate, factor)
        return factor

    def _pooling(self, parts: Parts) -> Pooling:
        return self._passing.poolings[parts.pooling]

    def _note(self, gate: str, value: torch.Tensor | float) -> None:
        if self.record is not None and isinstance(value, torch.Tensor):
            self.record.note(self.stack, self.index, gate, text_mean(value, self._passing.visible))


def _argument(place: tuple[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, position = place
    return kwargs[name] if name in kwargs else (args[position] if position < len(args) else None)


def _tensor(factor: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    return factor.to(like.dtype) if isinstance(factor, torch.Tensor) else like.new_tensor(factor)
