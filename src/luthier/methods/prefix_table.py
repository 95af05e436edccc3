"""Trained keys and values of attention modules: as flat tables, or made by a network that all layers of a stack share.

Shapes: L prefix length, D width, G key/value heads, d width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

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


class PrefixLayer(AttachedLayer):
    """The trained parts of one transformer layer, some of which stand before its keys and values."""

    def __init__(self, block: Block, parts_name: str) -> None:
        super().__init__(block.module, parts_name)
        self._providers: list[tuple[nn.Module, Any]] = []
        self._heads = {site: (a.key_value_heads, a.head_width) for site, a in block.attentions.items()}

    def prefixes(self, site: str, attention: nn.Module) -> list[KeyValuePrefix]:
        """What stands before the keys and values of the attention at `site`, asked for at each of its calls."""
        raise TypeError(f"{type(self).__name__} does not define prefixes()")

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

    def stack_of(self, block: Block, adapter_name: str, parts: Callable[[], nn.ModuleDict]) -> PrefixStack:
        """What the layers of the block's stack share, with the given parts for a new adapter."""
        host = self.model.get_submodule(block.stack_name)
        stack: PrefixStack = self.child_of(host, lambda: self.new_stack(host, block))
        if adapter_name not in stack.parts:
            stack.parts[adapter_name] = parts()
        return stack

    def new_stack(self, host: nn.Module, block: Block) -> PrefixStack:
        return PrefixStack(host, block, f"{self.prefix}parts")

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


def new_prefix(
    length: int, attention: Attention, shared: PrefixTable | None, place: tuple[Any, Any], std: float = 0.02
) -> FlatPrefix | ProjectedPrefix:
    """The prefix of one attention module.

    Args:
        shared: the shared half of the network that makes it; None draws flat keys and values.
        place: device and dtype.
        std: of the first values of flat keys and values.
    """
    width = attention.key_value_heads * attention.head_width
    return FlatPrefix.drawn(length, width, *place, std) if shared is None else ProjectedPrefix(shared, width, *place)


def has_site(sites: Sequence[str] | None, block: Block, site: str) -> bool:
    """Whether a layer's attention at `site` ("self" or "cross") is one of encoder, decoder and cross; None is all."""
    return sites is None or (block.stack if site == "self" else "cross") in sites


def active_name(model: Any) -> str:
    """The (first) active adapter of a PEFT model."""
    active = model.active_adapter
    return active if isinstance(active, str) else str(active[0])


@torch.no_grad()
def fold_networks(model: nn.Module, adapter_name: str) -> None:
    """Replace the prefix networks of an adapter by the keys and values that they make."""
    for layer in [m for m in model.modules() if isinstance(m, PrefixLayer | PrefixStack) and adapter_name in m.parts]:
        for parts in [m for m in layer.parts[adapter_name].modules() if isinstance(m, nn.ModuleDict)]:
            for name, part in list(parts.items()):
                if isinstance(part, ProjectedPrefix):
                    parts[name] = part.folded()
                elif isinstance(part, PrefixTable):
                    del parts[name]
