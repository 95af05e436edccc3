"""UniPELT as a PEFT tuner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from luthier.methods.part_options import PROJECTION_WIDTH
from luthier.methods.prefix_table import FlatPrefix, ProjectedPrefix
from luthier.models.layers.attached import AttachedTuner, placement
from luthier.models.layers.blocks import Block
from luthier.models.layers.serving import serve_prefixes, stop_serving
from luthier.peft_bridge.registration import register_tuner
from luthier.tuning.unipelt.config import UniPELTConfig
from luthier.tuning.unipelt.layer import UniPELTLayer
from luthier.tuning.unipelt.parts import Parts
from luthier.tuning.unipelt.stack import UniPELTStack


class UniPELTModel(AttachedTuner):
    """UniPELT in a model."""

    prefix = "unipelt_"
    child_name = "unipelt"

    def wanted(self, blocks: list[Block], config: UniPELTConfig) -> list[Block]:
        if config.prefix_sites is not None and not any(block.stack for block in blocks):
            raise ValueError("prefix_sites chooses between the halves of an encoder-decoder, which this model is not")
        in_all = {"lora", "bitfit"} & set(config.parts)
        return [block for block in blocks if in_all or block.index >= config.drop_first_layers]

    def attach(self, block: Block, config: UniPELTConfig, adapter_name: str) -> None:
        device, dtype = placement(block.module)
        layer = self.child_of(block.module, lambda: UniPELTLayer(block))
        parts = Parts(config, block, device, dtype)
        for site, attention in block.attentions.items():
            if config.has_prefix(block, site):
                stack = self._stack(block, adapter_name)
                sizes = config.prefix_length, config.prefix_projection_width
                shared = stack.table(adapter_name, site, block, *sizes) if config.prefix_projection else None
                parts.add_prefix(site, attention, shared)
                serve_prefixes(self.model, [attention.module])
        layer.add(adapter_name, parts, block)

    def unload(self) -> nn.Module:
        model = super().unload()
        stop_serving(model)
        return model

    def _stack(self, block: Block, adapter_name: str) -> UniPELTStack:
        host = self.model.get_submodule(block.stack_name)
        stack: UniPELTStack = self.child_of(host, lambda: UniPELTStack(host, block))
        if adapter_name not in stack.parts:
            stack.parts[adapter_name] = nn.ModuleDict()
        return stack


@torch.no_grad()
def fold_prefix(model: Any, adapter_name: str | None = None) -> Any:
    """Replace the prefix network by the keys and values that it makes: the logits stay, the network is gone.

    Args:
        model: a PEFT model with a UniPELT adapter; it is changed in place.
        adapter_name: which adapter; None is the active one.

    Returns:
        The model; its configuration has `prefix_projection=False`, so that it is saved and loaded without the network.

    Raises:
        ValueError: the adapter has no prefix network.
    """
    name = adapter_name or _active_name(model)
    config = model.peft_config.get(name)
    if not isinstance(config, UniPELTConfig):
        raise ValueError(f"{name!r} is not a UniPELT adapter of this model; it has {', '.join(model.peft_config)}")
    if "prefix" not in config.parts or not config.prefix_projection:
        raise ValueError(f"the adapter {name!r} has no prefix network to fold")
    for parts in _parts_of(model, name):
        for site, prefix in parts.prefix.items():
            if isinstance(prefix, ProjectedPrefix):
                parts.prefix[site] = prefix.folded()
    for module in model.modules():
        if isinstance(module, UniPELTStack) and name in module.parts:
            module.parts[name] = nn.ModuleDict()
    config.prefix_projection = False
    config.prefix_projection_width = PROJECTION_WIDTH
    return model


def part_sizes(model: Any, adapter_name: str | None = None) -> dict[str, int]:
    """Numbers in each part of an adapter: adapter, prefix, lora, bitfit, gates, and prefix_network while not folded."""
    name = adapter_name or _active_name(model)
    sizes = dict.fromkeys(("adapter", "prefix", "lora", "bitfit", "gates", "prefix_network"), 0)
    for parts in _parts_of(model, name):
        sizes["lora"] += _count(parts.lora)
        sizes["adapter"] += _count(parts.adapter)
        sizes["bitfit"] += _count(parts.shifts)
        sizes["gates"] += _count(parts.learned_gates) + _count(parts.central)
        for prefix in parts.prefix.values():
            sizes["prefix" if isinstance(prefix, FlatPrefix) else "prefix_network"] += _count(prefix)
    for module in model.modules():
        if isinstance(module, UniPELTStack) and name in module.parts:
            sizes["prefix_network"] += _count(module.parts[name])
    return sizes


def _parts_of(model: Any, name: str) -> Iterator[Parts]:
    for module in model.modules():
        if isinstance(module, UniPELTLayer) and name in module.parts:
            parts: Any = module.parts[name]
            yield parts


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def _active_name(model: Any) -> str:
    active = model.active_adapter
    return active if isinstance(active, str) else str(active[0])


register_tuner("unipelt", UniPELTConfig, UniPELTModel, prefix="unipelt_")
