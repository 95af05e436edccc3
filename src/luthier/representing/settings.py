"""A prefix for one task, made to be combined with those of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.part_options import (
    NETWORK_RATE,
    PROJECTION_WIDTH,
    Site,
    check_network_rate,
    check_task_prefix,
)
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "TASK_PREFIX", "luthier.representing.tuner", exported_by="luthier.representing.exporting:exported_prefix"
)
_TABLES = (".key", ".value", ".table")


@METHODS.register
class TaskPrefix(TuningMethod):
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
    prefix_length: int = Field(5, description="Prefix columns.")
    projection: bool = Field(False, description="Make the prefix from one table by a network while training.")
    projection_width: int = Field(PROJECTION_WIDTH, description="Hidden width of that network.")
    network_learning_rate: float | None = Field(
        NETWORK_RATE, gt=0, description="Peak learning rate of that network; null takes that of the prefix."
    )
    layers: list[int] | None = Field(
        None, description="Numbers, from 0, of the layers of every stack that get a prefix; null is all."
    )
    sites: list[Site] | None = Field(
        None, description="Encoder-decoders: which attention gets a prefix, of encoder, decoder and cross; null is all."
    )
    init_std: float = Field(0.02, description="Standard deviation of the table's first values.")
    head_learning_rate: float | None = Field(
        1e-2, gt=0, description="Peak learning rate of the task head; null takes that of the prefix."
    )

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        check_task_prefix(self)
        check_network_rate(self)
        return self

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with a task prefix.

        Raises:
            ModelError: the model's layers are not of a known make, its attention can't take a prefix, or it has no
                such layer.
        """
        from luthier.methods.wrapping import wrap
        from luthier.representing import TaskPrefixConfig

        options = self.model_dump(exclude={"name", "head_learning_rate", "network_learning_rate"})
        return wrap(model, TaskPrefixConfig(task_type=context.task_type, **options), context)

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
