"""The PEFT configuration of bottleneck adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from peft import PeftConfig
from peft.utils import PeftType

from luthier.methods.part_options import check_bottleneck


@dataclass
class BottleneckConfig(PeftConfig):
    """Configuration of bottleneck adapters: two thin matrices with a non-linearity between them, in every layer.

    Sources: Houlsby et al., ICML 2019 (`houlsby`); Pfeiffer et al., EACL 2021 (`pfeiffer`), in the form that
    Mao et al., ACL 2022 (UniPELT) use.

    Raises:
        ValueError: a value out of range, or an option that would have no effect.
    """

    # PEFT reads this from every tuner's configuration; the tuner finds its place in the model by itself.
    target_modules: ClassVar[None] = None

    placement: str = field(
        default="pfeiffer",
        metadata={
            "help": "pfeiffer: one adapter a layer, after the feed-forward part. It reads the layer's output and adds "
            "to the sum of feed-forward output and residual, before the layer's last norm where there is one. "
            "houlsby: two a layer, on the outputs of attention and feed-forward part, before the residual is added."
        },
    )
    reduction: float | None = field(
        default=None, metadata={"help": "Hidden width is the model's divided by this; None with no bottleneck is 16."}
    )
    bottleneck: int | None = field(default=None, metadata={"help": "Hidden width, in place of reduction."})
    activation: str = field(default="relu", metadata={"help": "relu, gelu, silu or tanh."})
    init: str = field(
        default="normal",
        metadata={
            "help": "First weights: normal (0, 0.02), as BERT's; near_identity, normal (0, 0.01) cut at two "
            "deviations (Houlsby); identity, an up-projection of zeros, so that the first output is the model's."
        },
    )
    dropout: float = field(default=0.0, metadata={"help": "Dropout after the non-linearity."})
    drop_first_layers: int = field(default=0, metadata={"help": "The first k layers of every stack get no adapter."})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules outside the adapters that are trained and saved: the task head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["BOTTLENECK"]
        check_bottleneck(self)

    def hidden_width(self, width: int) -> int:
        """Hidden width in a model of this width; at least 1."""
        return self.bottleneck or max(1, int(width / (self.reduction or 16)))
