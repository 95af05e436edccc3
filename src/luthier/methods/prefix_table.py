"""Trained keys and values of attention modules: as flat tables, or made by a network that all layers of a stack share.

Shapes: L prefix length, D width, G key/value heads, d width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from luthier.methods.prefix_options import PROJECTION_WIDTH
from luthier.models.layers.attached import AttachedLayer, AttachedTuner, placement
from luthier.models.layers.attention_prefix import KeyValuePrefix, add_provider, remove_provider
from luthier.models.layers.blocks import Attention, Block
from luthier.models.layers.serving import is_served, serve_prefixes, stop_serving
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
    """What the layers of one stack share: by adapter name, PrefixTable by "self" and "cross" where a network makes
    the prefixes.

    In a decoder with rotary positions a prefix stands at position 0, so that its distance to the text, and with it
    every logit, would depend on padding before the text. Positions are therefore counted without padding while an
    adapter is active.
    """

    def __init__(self, stack: nn.Module, block: Block, parts_name: str) -> None:
        super().__init__(stack, parts_name)
        takes_positions = "position_ids" in inspect.signature(type(stack).forward).parameters
        if block.causal and not block.stack and takes_positions:
            self.hook("", "before", self._count_positions)

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


class PrefixLayer(AttachedLayer):
    """The trained parts of one transformer layer, some of which stand before its keys and values."""

    def __init__(self, block: Block, parts_name: str) -> None:
        super().__init__(block.module, parts_name)
        self._providers: list[tuple[nn.Module, Any]] = []
        self._heads = {site: (a.key_value_heads, a.head_width) for site, a in block.attentions.items()}

    def prefixes(self, site: str, attention: nn.Module) -> list[KeyValuePrefix]:
        """What stands before the keys and values of the attention at `site`, asked for at each of its calls."""
        raise TypeError(f"{type(self).__name__} does not define prefixes()")

    def keys_and_values(self, site: str, prefix: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What a FlatPrefix or ProjectedPrefix of the attention at `site` holds, each (1, G, L, d)."""
        key, value = prefix()
        return by_heads(key, *self._heads[site]), by_heads(value, *self._heads[site])

    def provide(self, site: str, attention: Attention) -> None:
        """Have an attention module ask for its prefixes; calling it again changes nothing."""
        if all(module is not attention.module for module, _ in self._providers):
            provider = partial(self.prefixes, site)
            add_provider(attention.module, provider)
            self._providers.append((attention.module, provider))

    def keep_serving(self, attention: nn.Module, *_: Any) -> None:
        """A hook before an attention module with prefixes: the user may have switched its implementation since."""
        if not is_served(attention):
            serve_prefixes(attention, [attention])

    def detach(self) -> None:
        super().detach()
        for module, provider in self._providers:
            remove_provider(module, provider)
        self._providers.clear()


class PrefixTuner(AttachedTuner):
    """A tuner with prefixes among its parts. `child_name` is that of its layers and of its stacks."""

    def new_prefix(
        self, block: Block, site: str, adapter_name: str, length: int, hidden: int | None, std: float = 0.02
    ) -> FlatPrefix | ProjectedPrefix:
        """An adapter's prefix of the attention at `site` of a layer, which asks for prefixes from now on.

        Args:
            hidden: width of the network that makes the prefix, whose first half the stack holds for all its layers;
                None draws flat keys and values.
            std: of the first values of the table, or of flat keys and values.

        Raises:
            ValueError: the attention can't take a prefix.
        """
        attention, place, tables = block.attentions[site], placement(block.module), self._tables(block, adapter_name)
        width = attention.key_value_heads * attention.head_width
        if hidden is None:
            prefix: FlatPrefix | ProjectedPrefix = FlatPrefix.drawn(length, width, *place, std)
        else:
            if site not in tables:
                tables[site] = PrefixTable(length, block.width, hidden, *place, std)
            prefix = ProjectedPrefix(tables[site], width, *place)
        serve_prefixes(self.model, [attention.module])
        return prefix

    def new_stack(self, host: nn.Module, block: Block) -> PrefixStack:
        """What the layers of a stack share."""
        return PrefixStack(host, block, self.parts_name)

    def new_tables(self, adapter_name: str) -> nn.ModuleDict:
        """What they share of one adapter, still empty."""
        return nn.ModuleDict()

    def _tables(self, block: Block, adapter_name: str) -> Any:
        host = self.model.get_submodule(block.stack_name)
        stack: PrefixStack = self.child_of(host, lambda: self.new_stack(host, block))
        if adapter_name not in stack.parts:
            stack.parts[adapter_name] = self.new_tables(adapter_name)
        return stack.parts[adapter_name]

    def unload(self) -> nn.Module:
        model = super().unload()
        stop_serving(model)
        return model


def _linear(inputs: int, outputs: int, device: torch.device, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device=device, dtype=dtype)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def prefix_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that make prefixes: keys and values, or the tables and networks behind them."""
    kinds = (PrefixTable, FlatPrefix, ProjectedPrefix)
    return {id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters()}


def by_heads(states: torch.Tensor, heads: int, width: int) -> torch.Tensor:
    """(..., L, G d) -> (..., G, L, d), with a dimension of 1 in front where there was none."""
    split = states.unflatten(-1, (heads, width)).transpose(-3, -2)
    return split[None] if split.ndim == 3 else split


def sites_of(block: Block, sites: Sequence[str] | None) -> list[str]:
    """Which of a layer's attentions, "self" and "cross", are among encoder, decoder and cross; None is all."""
    return [at for at in block.attentions if sites is None or (block.stack if at == "self" else "cross") in sites]


def check_sites(option: str, sites: Sequence[str] | None, blocks: Sequence[Block]) -> None:
    """Raise ValueError where an option chooses sites of a model that is no encoder-decoder."""
    if sites is not None and not any(block.stack for block in blocks):
        raise ValueError(f"{option} chooses between the halves of an encoder-decoder, which this model is not")


def active_name(model: Any) -> str:
    """The (first) active adapter of a PEFT model."""
    active = model.active_adapter
    return active if isinstance(active, str) else str(active[0])


def fold_network(model: Any, config_cls: type[Any], switch: str, adapter_name: str | None = None) -> Any:
    """Replace the prefix network by the keys and values that it makes: the outputs stay, the network is gone.

    Args:
        model: a PEFT model; it is changed in place.
        config_cls: of the adapter.
        switch: its option for a network, which is False afterwards, so that the adapter is saved and loaded without.
        adapter_name: which adapter; None is the active one.

    Returns:
        The model.

    Raises:
        ValueError: it has no such adapter, or the adapter no prefix network.
    """
    name = adapter_name or active_name(model)
    layers: list[Any] = [m for m in model.modules() if isinstance(m, PrefixLayer | PrefixStack) and name in m.parts]
    groups: list[Any] = [m for layer in layers for m in layer.parts[name].modules() if isinstance(m, nn.ModuleDict)]
    has_network = any(isinstance(part, ProjectedPrefix) for group in groups for part in group.values())
    config = model.peft_config.get(name)
    if not isinstance(config, config_cls) or not has_network:
        kind, names = config_cls.adapter_type, ", ".join(model.peft_config)
        raise ValueError(f"{name!r} is no {kind} adapter with a prefix network to fold; the adapters are {names}")
    for group in groups:
        for site, part in list(group.items()):
            if isinstance(part, ProjectedPrefix):
                group[site] = part.folded()
            elif isinstance(part, PrefixTable):
                del group[site]
    setattr(config, switch, False)
    setattr(config, f"{switch}_width", PROJECTION_WIDTH)
    return model
