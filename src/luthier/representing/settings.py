"""Task prefixes: their options, and the method of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.options import Options, option
from luthier.methods.prefix_options import NETWORK_RATE, PROJECTION_WIDTH, Site, check_network_rate
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "TASK_PREFIX", "luthier.representing.tuner", exported_by="luthier.representing.exporting:exported_prefix"
)
# Tasks and heads of a shared encoder are saved under their names.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
FILE_NAME_RULE = "use letters, digits, `_`, `-` and `.`, 100 at most"
_TABLES = (".key", ".value", ".table")


@dataclass(init=False, repr=False, eq=False)
class TaskPrefixOptions(Options):
    """How long the prefix of one task is, where it stands, and what makes it."""

    prefix_length: int = option(5, "Prefix columns.", ge=1)
    projection: bool = option(False, "Make the prefix from one table by a network while training.")
    projection_width: int = option(PROJECTION_WIDTH, "Hidden width of that network.", ge=1)
    layers: list[int] | None = option(
        None, "Numbers, from 0, of the layers of every stack that get a prefix; None is all."
    )
    sites: list[Site] | None = option(
        None, "Encoder-decoders: which attention gets a prefix, of encoder, decoder and cross; None is all."
    )
    init_std: float = option(0.02, "Standard deviation of the table's first values.", gt=0)

    def check(self) -> None:
        super().check()
        if min(self.layers or [0]) < 0:
            raise ValueError(f"layers has {min(self.layers or [0])}, but layers are counted from 0")
        if self.projection_width != PROJECTION_WIDTH and not self.projection:
            raise ValueError("projection_width would have no effect without projection: leave it out")


@METHODS.register
class TaskPrefix(TaskPrefixOptions, TuningMethod):
    """Keys and values in front of those of every layer are trained, the model is frozen.

    What is saved can be combined with the prefixes of other tasks into one text representation, and works where
    PEFT's `prefix` does not: under gradient checkpointing, and on models that take no keys and values from outside.
    """

    name: Literal["task_prefix"] = "task_prefix"
    summary: ClassVar[str] = "train a prefix for one task, to be combined with those of others"
    paper: ClassVar[Paper] = Paper(
        title="Learning Easily Updated General Purpose Text Representations with Adaptable Task-Specific Prefix",
        authors="Huang, Tan, Hou, Wang, Almahairi, Rinott",
        venue="Findings of EMNLP 2023",
        url="https://aclanthology.org/2023.findings-emnlp.497/",
    )
    default_learning_rate: ClassVar[float] = 1e-1
    merges: ClassVar[bool] = False
    network_learning_rate: float | None = Field(
        NETWORK_RATE,
        gt=0,
        description="Peak learning rate of the projection network; null takes that of the prefix.",
    )
    head_learning_rate: float | None = Field(
        1e-2, gt=0, description="Peak learning rate of the task head; null takes that of the prefix."
    )

    def adapter_config(self) -> Mapping[str, Any]:
        return {"peft_type": "TASK_PREFIX"}

    def check(self) -> None:
        super().check()
        check_network_rate(self)

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with a task prefix.

        Raises:
            ModelError: the model's layers are not of a known make, its attention can't take a prefix, or it has no
                such layer.
        """
        from luthier.methods.wrapping import wrap
        from luthier.representing import TaskPrefixConfig

        return wrap(model, TaskPrefixConfig(task_type=context.task_type, **self.option_values()), context, self)

    def parameter_groups(self, model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Prefix, network and head with their own rates; keys and values stand for themselves and are not decayed."""
        from luthier.methods.heads import HEAD_MARK
        from luthier.methods.wrapping import groups, trainable

        named = trainable(model)
        head = [(name, p) for name, p in named if HEAD_MARK in name]
        tables = [(name, p) for name, p in named if HEAD_MARK not in name and name.endswith(_TABLES)]
        network = [(name, p) for name, p in named if HEAD_MARK not in name and not name.endswith(_TABLES)]
        return groups(
            (tables, learning_rate, 0.0),
            (network, self.network_learning_rate or learning_rate, weight_decay),
            (head, self.head_learning_rate or learning_rate, weight_decay),
        )
