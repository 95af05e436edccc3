"""Task prefixes as a PEFT tuner.

Source: stage 1 of Huang et al., Findings of EMNLP 2023. Shapes: L prefix length, G key/value heads, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from luthier.methods.options import option
from luthier.methods.prefix_table import (
    PrefixLayer,
    PrefixStack,
    PrefixTuner,
    check_sites,
    fold_network,
    sites_of,
)
from luthier.models.layers.attached import AttachedConfig
from luthier.models.layers.attention_prefix import KeyValuePrefix
from luthier.models.layers.blocks import Block
from luthier.peft_bridge.registration import register_tuner
from luthier.representing.settings import TaskPrefixOptions

PARTS = "task_prefix_parts"


@dataclass
class TaskPrefixConfig(TaskPrefixOptions, AttachedConfig):
    """Configuration of one task's prefix: L trained keys and values in front of those of every attention module.

    Source: stage 1 of Huang et al., Findings of EMNLP 2023. Several adapters may be active at once; they stand side
    by side in one softmax, in no particular order.

    Raises:
        ValueError: a value out of range, or an option that would have no effect.
    """

    adapter_type = "TASK_PREFIX"

    weight: float = option(
        1.0,
        "Its logarithm is added to the scores of the prefix columns: 2 counts them twice, and 0 takes the prefix out. "
        "It may be changed at any time and acts from the next forward on.",
        ge=0,
        lt=math.inf,
    )

    @property
    def log_weight(self) -> float:
        """What is added to the scores of the prefix columns; minus infinity at weight 0."""
        return math.log(self.weight) if self.weight else -math.inf

    def sites_in(self, block: Block) -> list[str]:
        """Which of the layer's attentions, "self" and "cross", get a prefix."""
        return sites_of(block, self.sites) if self.layers is None or block.index in self.layers else []


class OneTask(nn.ModuleDict):
    """What one adapter has: FlatPrefix or ProjectedPrefix in a layer, PrefixTable in a stack, by "self" and "cross"."""

    def __init__(self, config: TaskPrefixConfig) -> None:
        super().__init__()
        self.config = config


class TaskPrefixLayer(PrefixLayer):
    """The prefixes of all adapters in one transformer layer."""

    def __init__(self, block: Block) -> None:
        super().__init__(block, PARTS)

    def add(self, name: str, prefixes: OneTask, block: Block) -> None:
        """Add an adapter."""
        self.parts[name] = prefixes
        for site in prefixes:
            self.provide(site, block.attentions[site])
            self.hook(block.attentions[site].path, "before", self.keep_serving)

    def prefixes(self, site: str, attention: nn.Module) -> list[KeyValuePrefix]:
        prefixes = []
        for parts in self.active_parts():
            if site in parts:
                key, value = self.keys_and_values(site, parts[site])
                prefixes.append(KeyValuePrefix(key, value, parts.config.log_weight))
        return prefixes


class TaskPrefixStack(PrefixStack):
    """What the prefixes of one stack's layers share."""

    def active_parts(self) -> Iterator[Any]:
        # Without weight there is no prefix whose distance to the text could matter.
        return (parts for parts in super().active_parts() if parts.config.weight)


class TaskPrefixModel(PrefixTuner):
    """Task-specific prefixes in a model."""

    prefix = "task_prefix_"
    child_name = "task_prefix"
    parts_name = PARTS

    def wanted(self, blocks: list[Block], config: TaskPrefixConfig) -> list[Block]:
        check_sites("sites", config.sites, blocks)
        deepest = max(block.index for block in blocks)
        if (beyond := max(config.layers or [0])) > deepest:
            raise ValueError(f"layers has {beyond}, but the layers of this model are 0 to {deepest}")
        return [block for block in blocks if config.sites_in(block)]

    def attach(self, block: Block, config: TaskPrefixConfig, adapter_name: str) -> None:
        layer: TaskPrefixLayer = self.child_of(block.module, lambda: TaskPrefixLayer(block))
        prefixes, hidden = OneTask(config), config.projection_width if config.projection else None
        for site in config.sites_in(block):
            prefixes[site] = self.new_prefix(block, site, adapter_name, config.prefix_length, hidden, config.init_std)
        layer.add(adapter_name, prefixes, block)

    def new_stack(self, host: nn.Module, block: Block) -> PrefixStack:
        return TaskPrefixStack(host, block, PARTS)

    def new_tables(self, adapter_name: str) -> OneTask:
        return OneTask(self.peft_config[adapter_name])


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
    attached: list[Any] = [m for m in model.modules() if isinstance(m, TaskPrefixLayer | TaskPrefixStack)]
    for module in attached:
        module.set_adapter(list(names))
    for name, p in model.named_parameters():
        p.requires_grad_(trained[name])


def fold_task_prefix(model: Any, adapter_name: str | None = None) -> Any:
    """Replace the prefix network by what it makes; see `luthier.methods.prefix_table.fold_network`."""
    return fold_network(model, TaskPrefixConfig, "projection", adapter_name)


register_tuner("task_prefix", TaskPrefixConfig, TaskPrefixModel, prefix="task_prefix_")
