"""UniPELT as a PEFT tuner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from luthier.methods.prefix_table import PrefixTuner, active_name, check_sites, fold_network, sites_of
from luthier.models.layers.attached import AttachedConfig
from luthier.models.layers.blocks import Block
from luthier.peft_bridge.registration import register_tuner
from luthier.tuning.unipelt.layer import Parts, UniPELTLayer
from luthier.tuning.unipelt.settings import UniPELTOptions


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


class UniPELTModel(PrefixTuner):
    """UniPELT in a model."""

    prefix = "unipelt_"
    child_name = "unipelt"
    parts_name = "unipelt_parts"

    def wanted(self, blocks: list[Block], config: UniPELTConfig) -> list[Block]:
        check_sites("prefix_sites", config.prefix_sites, blocks)
        in_all = {"lora", "bitfit"} & set(config.parts)
        return [block for block in blocks if in_all or block.index >= config.drop_first_layers]

    def attach(self, block: Block, config: UniPELTConfig, adapter_name: str) -> None:
        layer: UniPELTLayer = self.child_of(block.module, lambda: UniPELTLayer(block))
        has_prefix = "prefix" in config.parts and block.index >= config.drop_first_layers
        sites = sites_of(block, config.prefix_sites) if has_prefix else []
        hidden = config.prefix_projection_width if config.prefix_projection else None

        def make_prefix(site: str) -> nn.Module:
            return self.new_prefix(block, site, adapter_name, config.prefix_length, hidden)

        layer.add(adapter_name, Parts(config, block, config.pooling_in(block), sites, make_prefix), block)


def fold_prefix(model: Any, adapter_name: str | None = None) -> Any:
    """Replace the prefix network by what it makes; see `luthier.methods.prefix_table.fold_network`."""
    return fold_network(model, UniPELTConfig, "prefix_projection", adapter_name)


_PART_OF = {"lora": "lora", "adapter": "adapter", "shifts": "bitfit", "learned_gates": "gates", "central": "gates"}


def part_sizes(model: nn.Module, adapter_name: str | None = None) -> dict[str, int]:
    """Numbers in each part of an adapter: adapter, prefix, lora, bitfit, gates, and prefix_network while not folded."""
    sizes = dict.fromkeys(("adapter", "prefix", "lora", "bitfit", "gates", "prefix_network"), 0)
    for path, parameter in model.named_parameters():
        _, ours, name = path.partition(f".unipelt_parts.{adapter_name or active_name(model)}.")
        if ours and name.startswith("prefix.") and name.endswith((".key", ".value")):
            sizes["prefix"] += parameter.numel()
        elif ours:
            sizes[_PART_OF.get(name.split(".")[0], "prefix_network")] += parameter.numel()
    return sizes


register_tuner("unipelt", UniPELTConfig, UniPELTModel, prefix="unipelt_")
