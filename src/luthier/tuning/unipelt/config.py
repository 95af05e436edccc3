"""The PEFT configuration of UniPELT."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig
from peft.utils import PeftType

from luthier.methods.part_options import LEARNED, PROJECTION_WIDTH, check_unipelt, gate_of
from luthier.models.layers.blocks import Block


@dataclass
class UniPELTConfig(PeftConfig):
    """Configuration of UniPELT: adapter, prefix, LoRA and bias shifts in every layer, each behind a gate.

    The defaults are the paper's (Mao et al., ACL 2022, variant APL), but that gates leave padding out.

    Raises:
        ValueError: a value out of range, or an option that would have no effect.
    """

    # PEFT reads this from every tuner's configuration; the tuner finds its place in the model by itself.
    target_modules: ClassVar[None] = None

    parts: list[str] = field(
        default_factory=lambda: ["adapter", "prefix", "lora"],
        metadata={"help": "Any of adapter, prefix, lora and bitfit."},
    )
    gates: Any = field(
        default=LEARNED,
        metadata={
            "help": "learned, none, or a fixed number; one for all parts or a mapping from part to gate, in which a "
            "part that is left out has a learned gate."
        },
    )
    gate_pooling: str | None = field(
        default=None,
        metadata={
            "help": "How the gate values of the tokens become one: mask_aware (mean over text), all (mean over text "
            "and padding, as the released code does), first_token, or per_token (no pooling: every token its own "
            "gate). None is mask_aware. Layers that write text always use per_token, since the mean over a text "
            "would show a token those behind it and would change with every token that is written."
        },
    )
    shared_lora_gate: bool = field(
        default=False,
        metadata={"help": "One gate for all LoRA targets of an attention module, as the paper has it."},
    )
    add_central_gate: bool = field(
        default=False,
        metadata={
            "help": "Scale LoRA and prefix, on top of their gates, by the two outputs of a softmax over the pooled "
            "ReLU of a linear map (in the released code, unpublished)."
        },
    )
    prefix_length: int = field(default=10, metadata={"help": "Prefix columns L."})
    prefix_projection: bool = field(
        default=True,
        metadata={"help": "Make the prefix from one table by a network while training; fold_prefix() takes it out."},
    )
    prefix_projection_width: int = field(default=PROJECTION_WIDTH, metadata={"help": "Hidden width of that network."})
    prefix_sites: list[str] | None = field(
        default=None,
        metadata={
            "help": "Encoder-decoders only: which attention gets a prefix: encoder, decoder (its self-attention) and "
            "cross. None is all three."
        },
    )
    lora_targets: list[str] = field(
        default_factory=lambda: ["query", "value"], metadata={"help": "Projections with LoRA: query, key, value."}
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank r."})
    lora_alpha: float = field(
        default=16.0, metadata={"help": "Without gate, LoRA is scaled by alpha / r; a gate takes that factor's place."}
    )
    adapter_reduction: float | None = field(
        default=None, metadata={"help": "Hidden width is the model's divided by this; None with no bottleneck is 16."}
    )
    adapter_bottleneck: int | None = field(default=None, metadata={"help": "Hidden width of the adapter."})
    adapter_activation: str = field(default="relu", metadata={"help": "relu, gelu, silu or tanh."})
    adapter_init: str = field(
        default="normal", metadata={"help": "First weights of the adapter; see BottleneckConfig."}
    )
    adapter_dropout: float = field(default=0.0, metadata={"help": "Dropout after the adapter's non-linearity."})
    drop_first_layers: int = field(
        default=0, metadata={"help": "The first k layers of every stack get no adapter and no prefix."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules outside the parts that are trained and saved: the task head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["UNIPELT"]
        check_unipelt(self)

    def gate_of(self, part: str) -> str | float:
        """The gate of a part: "learned", "none" or a fixed number."""
        return gate_of(self.gates, part)

    def adapter_width(self, width: int) -> int:
        """The adapter's hidden width in a model of this width; at least 1."""
        return self.adapter_bottleneck or max(1, int(width / (self.adapter_reduction or 16)))

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
        if "prefix" not in self.parts or block.index < self.drop_first_layers:
            return False
        return self.prefix_sites is None or (block.stack if site == "self" else "cross") in self.prefix_sites
