"""The PEFT configuration of task-specific prefixes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from peft import PeftConfig
from peft.utils import PeftType

from luthier.methods.part_options import PROJECTION_WIDTH, check_task_prefix
from luthier.models.layers.blocks import Block


@dataclass
class TaskPrefixConfig(PeftConfig):
    """Configuration of one task's prefix: L trained keys and values in front of those of every attention module.

    Source: stage 1 of Huang et al., Findings of EMNLP 2023. Several adapters may be active at once; they stand side
    by side in one softmax, in no particular order.

    Raises:
        ValueError: a value out of range, or an option that would have no effect.
    """

    # PEFT reads this from every tuner's configuration; the tuner finds its place in the model by itself.
    target_modules: ClassVar[None] = None

    prefix_length: int = field(default=5, metadata={"help": "Prefix columns L."})
    projection: bool = field(
        default=False,
        metadata={
            "help": "Make the prefix from one table by a network while training; fold_task_prefix() takes it out."
        },
    )
    projection_width: int = field(default=PROJECTION_WIDTH, metadata={"help": "Hidden width of that network."})
    layers: list[int] | None = field(
        default=None, metadata={"help": "Numbers, from 0, of the layers of every stack that get a prefix; None is all."}
    )
    sites: list[str] | None = field(
        default=None,
        metadata={
            "help": "Encoder-decoders only: which attention gets a prefix: encoder, decoder (its self-attention) and "
            "cross. None is all three."
        },
    )
    init_std: float = field(default=0.02, metadata={"help": "Standard deviation of the table's first values."})
    weight: float = field(
        default=1.0,
        metadata={
            "help": "Its logarithm is added to the scores of the prefix columns: 2 counts them twice, and 0 takes the "
            "prefix out. It may be changed at any time and acts from the next forward on."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules outside the prefix that are trained and saved: the task head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["TASK_PREFIX"]
        check_task_prefix(self)

    @property
    def log_weight(self) -> float:
        """What is added to the scores of the prefix columns; minus infinity at weight 0."""
        return math.log(self.weight) if self.weight else -math.inf

    def has_prefix(self, block: Block, site: str) -> bool:
        """Whether the layer's attention at `site` ("self" or "cross") gets a prefix."""
        if self.layers is not None and block.index not in self.layers:
            return False
        return self.sites is None or (block.stack if site == "self" else "cross") in self.sites
