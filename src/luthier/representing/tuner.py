"""Task-specific prefixes as a PEFT tuner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from luthier.methods.part_options import PROJECTION_WIDTH
from luthier.methods.prefix_table import FlatPrefix, PrefixStack, ProjectedPrefix
from luthier.models.layers.attached import AttachedLayer, AttachedTuner, placement
from luthier.models.layers.attention_prefix import KeyValuePrefix, add_provider, remove_provider
from luthier.models.layers.blocks import Block
from luthier.models.layers.serving import is_served, serve_prefixes, stop_serving
from luthier.peft_bridge.registration import register_tuner
from luthier.representing.config import TaskPrefixConfig

PARTS = "task_prefix_parts"


class OneTask(nn.ModuleDict):
    """What one adapter has: FlatPrefix or ProjectedPrefix in a layer, PrefixTable in a stack, by "self" and "cross"."""

    def __init__(self, config: TaskPrefixConfig) -> None:
        super().__init__()
        self.config = config


class TaskPrefixLayer(AttachedLayer):
    """The prefixes of all adapters in one transformer layer, and the providers that put them before its keys."""

    def __init__(self, block: Block) -> None:
        super().__init__(block.module, PARTS)
        self._providers: list[tuple[nn.Module, Any]] = []
        self._heads = {site: (a.key_value_heads, a.head_width) for site, a in block.attentions.items()}

    def add(self, name: str, prefixes: OneTask, block: Block) -> None:
        """Add an adapter."""
        self.parts[name] = prefixes
        for site in prefixes:
            attention = block.attentions[site]
            if all(module is not attention.module for module, _ in self._providers):
                provider = partial(self._prefixes, site)
                add_provider(attention.module, provider)
                self._providers.append((attention.module, provider))
                self.hook(attention.path, "before", self._keep_serving)

    def detach(self) -> None:
        super().detach()
        for module, provider in self._providers:
            remove_provider(module, provider)
        self._providers.clear()

    def _keep_serving(self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_served(attention):
            # The user has switched the attention implementation since.
            serve_prefixes(attention, [attention])

    def _prefixes(self, site: str, attention: nn.Module) -> list[KeyValuePrefix]:
        """The provider of one attention module: a prefix for each active adapter that has one."""
        found = []
        for parts in self.active_parts():
            if site in parts:
                key, value = (by_heads(states, *self._heads[site]) for states in parts[site]())
                found.append(KeyValuePrefix(key, value, parts.config.log_weight))
        return found


class TaskPrefixStack(PrefixStack):
    """The shared halves of a stack's prefix networks."""

    def __init__(self, stack: nn.Module, block: Block) -> None:
        super().__init__(stack, block, PARTS)

    def active_parts(self) -> Iterator[Any]:
        # Without weight there is no prefix whose distance to the text could matter.
        return (parts for parts in super().active_parts() if parts.config.weight)


class TaskPrefixModel(AttachedTuner):
    """Task-specific prefixes in a model."""

    prefix = "task_prefix_"
    child_name = "task_prefix"

    def wanted(self, blocks: list[Block], config: TaskPrefixConfig) -> list[Block]:
        if config.sites is not None and not any(block.stack for block in blocks):
            raise ValueError("sites chooses between the halves of an encoder-decoder, which this model is not")
        deepest = max(block.index for block in blocks)
        if (beyond := max(config.layers or [0])) > deepest:
            raise ValueError(f"layers has {beyond}, but the layers of this model are 0 to {deepest}")
        return [block for block in blocks if any(config.has_prefix(block, site) for site in block.attentions)]

    def attach(self, block: Block, config: TaskPrefixConfig, adapter_name: str) -> None:
        layer = self.child_of(block.module, lambda: TaskPrefixLayer(block))
        stack, prefixes = self._stack(block, config, adapter_name), OneTask(config)
        device, dtype = placement(block.module)
        for site, attention in block.attentions.items():
            if not config.has_prefix(block, site):
                continue
            width = attention.key_value_heads * attention.head_width
            if config.projection:
                sizes = config.prefix_length, config.projection_width
                shared = stack.table(adapter_name, site, block, *sizes, config.init_std)
                prefixes[site] = ProjectedPrefix(shared, width, device, dtype)
            else:
                prefixes[site] = FlatPrefix.drawn(config.prefix_length, width, device, dtype, config.init_std)
            serve_prefixes(self.model, [attention.module])
        layer.add(adapter_name, prefixes, block)

    def unload(self) -> nn.Module:
        model = super().unload()
        stop_serving(model)
        return model

    def _stack(self, block: Block, config: TaskPrefixConfig, adapter_name: str) -> TaskPrefixStack:
        host = self.model.get_submodule(block.stack_name)
        stack: TaskPrefixStack = self.child_of(host, lambda: TaskPrefixStack(host, block))
        if adapter_name not in stack.parts:
            stack.parts[adapter_name] = OneTask(config)
        return stack


def by_heads(states: torch.Tensor, heads: int, width: int) -> torch.Tensor:
    """(..., L, G d) -> (..., G, L, d), with a dimension of 1 in front where there was none."""
    split = states.unflatten(-1, (heads, width)).transpose(-3, -2)
    return split[None] if split.ndim == 3 else split


def activate_prefixes(model: Any, names: Sequence[str]) -> None:
    """Let several prefixes act at once, side by side.

    Unlike PEFT's `model.base_model.set_adapter(names)` it leaves the task head that is in use, and what is trained,
    as they are; so the prefixes may have heads of their own.

    Args:
        model: a PEFT model with task prefixes.
        names: of its adapters; none of them leaves the base model with the current head.

    Raises:
        ValueError: it has no such adapter, or one that is no task prefix.
    """
    known = [name for name, config in model.peft_config.items() if isinstance(config, TaskPrefixConfig)]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no task prefix of this model; it has {', '.join(known) or 'none'}")
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    for module in _attached(model):
        module.set_adapter(list(names))
    for name, p in model.named_parameters():
        p.requires_grad_(trained[name])


@torch.no_grad()
def fold_task_prefix(model: Any, adapter_name: str | None = None) -> Any:
    """Replace the prefix network by the keys and values that it makes: the outputs stay, the network is gone.

    Args:
        model: a PEFT model with task prefixes; it is changed in place.
        adapter_name: which adapter; None is the active one.

    Returns:
        The model; the adapter's configuration has `projection=False`, so that it is saved and loaded as a table.

    Raises:
        ValueError: the adapter has no prefix network.
    """
    active = model.active_adapter
    name = adapter_name or (active if isinstance(active, str) else active[0])
    config = model.peft_config.get(name)
    if not isinstance(config, TaskPrefixConfig) or not config.projection:
        raise ValueError(f"{name!r} is no task prefix with a network to fold; adapters: {', '.join(model.peft_config)}")
    for module in list(_attached(model)):
        if isinstance(module, TaskPrefixStack):
            module.parts[name] = OneTask(config)
        elif name in module.parts:
            layer: Any = module.parts[name]
            for site in list(layer):
                layer[site] = layer[site].folded()
    config.projection, config.projection_width = False, PROJECTION_WIDTH
    return model


def _attached(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if isinstance(module, AttachedLayer) and module.adapter_layer_names == (PARTS,):
            yield module


register_tuner("task_prefix", TaskPrefixConfig, TaskPrefixModel, prefix="task_prefix_")
