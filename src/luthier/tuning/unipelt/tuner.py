"""UniPELT as a PEFT tuner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from luthier.methods.prefix_options import PROJECTION_WIDTH
from luthier.methods.prefix_table import FlatPrefix, PrefixStack, PrefixTuner, active_name, fold_networks, has_site
from luthier.models.layers.attached import AttachedConfig
from luthier.models.layers.blocks import Block
from luthier.models.layers.serving import serve_prefixes
from luthier.peft_bridge.registration import register_tuner
from luthier.tuning.unipelt.layer import Parts, UniPELTLayer
from luthier.tuning.unipelt.options import UniPELTOptions


@dataclass
class UniPELTConfig(UniPELTOptions, AttachedConfig):
    """Configuration of UniPELT: adapter, prefix, LoRA and bias shifts in every layer, each behind a gate.

    Raises:
        ValueError: a value out of range, or an option that would have no effect.
    """

    adapter_type = "UNIPELT"

    def pooling_in(self, block: Block) -> str:
        """How gates are pooled in this layer.

        Raises:
            ValueError: pooled gates were asked for where the model writes text.
        """
        writes = block.stack == "decoder" or (block.causal and self.task_type in (None, "CAUSAL_LM"))
        if not writes:
            return self.gate_pooling or "mask_aware"
        if not block.stack and self.gate_pooling not in (None, "per_token"):
            raise ValueError(
                f"gate_pooling is {self.gate_pooling!r}, but a model that writes text needs per_token: a gate pooled "
                "over the text would show every token those behind it"
            )
        return "per_token"

    def has_prefix(self, block: Block, site: str) -> bool:
        """Whether the layer's attention at `site` ("self" or "cross") gets a prefix."""
        here = "prefix" in self.parts and block.index >= self.drop_first_layers
        return here and has_site(self.prefix_sites, block, site)


class UniPELTModel(PrefixTuner):
    """UniPELT in a model."""

    prefix = "unipelt_"
    child_name = "unipelt"

    def wanted(self, blocks: list[Block], config: UniPELTConfig) -> list[Block]:
        if config.prefix_sites is not None and not any(block.stack for block in blocks):
            raise ValueError("prefix_sites chooses between the halves of an encoder-decoder, which this model is not")
        in_all = {"lora", "bitfit"} & set(config.parts)
        return [block for block in blocks if in_all or block.index >= config.drop_first_layers]

    def attach(self, block: Block, config: UniPELTConfig, adapter_name: str) -> None:
        layer: UniPELTLayer = self.child_of(block.module, lambda: UniPELTLayer(block))
        sites = [site for site in block.attentions if config.has_prefix(block, site)]
        parts = Parts(config, block, config.pooling_in(block), sites)
        for site in sites:
            stack = self.stack_of(block, adapter_name, nn.ModuleDict)
            sizes = config.prefix_length, config.prefix_projection_width
            table = stack.table(adapter_name, site, block, *sizes) if config.prefix_projection else None
            parts.add_prefix(site, block.attentions[site], table)
            serve_prefixes(self.model, [block.attentions[site].module])
        layer.add(adapter_name, parts, block)


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
    name = adapter_name or active_name(model)
    config = model.peft_config.get(name)
    if not isinstance(config, UniPELTConfig):
        raise ValueError(f"{name!r} is not a UniPELT adapter of this model; it has {', '.join(model.peft_config)}")
    if "prefix" not in config.parts or not config.prefix_projection:
        raise ValueError(f"the adapter {name!r} has no prefix network to fold")
    fold_networks(model, name)
    config.prefix_projection, config.prefix_projection_width = False, PROJECTION_WIDTH
    return model


def part_sizes(model: Any, adapter_name: str | None = None) -> dict[str, int]:
    """Numbers in each part of an adapter: adapter, prefix, lora, bitfit, gates, and prefix_network while not folded."""
    name = adapter_name or active_name(model)
    sizes = dict.fromkeys(("adapter", "prefix", "lora", "bitfit", "gates", "prefix_network"), 0)
    homes = {"lora": "lora", "adapter": "adapter", "shifts": "bitfit", "learned_gates": "gates", "central": "gates"}
    for layer in model.modules():
        if isinstance(layer, UniPELTLayer) and name in layer.parts:
            parts: Any = layer.parts[name]
            for child, part in homes.items():
                sizes[part] += _count(getattr(parts, child))
            for prefix in parts.prefix.values():
                sizes["prefix" if isinstance(prefix, FlatPrefix) else "prefix_network"] += _count(prefix)
        elif isinstance(layer, PrefixStack) and name in layer.parts:
            sizes["prefix_network"] += _count(layer.parts[name])
    return sizes


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


register_tuner("unipelt", UniPELTConfig, UniPELTModel, prefix="unipelt_")
