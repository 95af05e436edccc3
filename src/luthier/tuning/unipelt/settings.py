"""UniPELT: several parameter-efficient parts at once, each behind a gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.part_options import (
    NETWORK_RATE,
    PROJECTION_WIDTH,
    Activation,
    GateKind,
    GatePooling,
    Init,
    Part,
    Role,
    Site,
    check_unipelt,
)
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "UNIPELT",
    "luthier.tuning.unipelt.tuner",
    why_not_exported="its gates and networks depend on the input, so that no prefix stands for it",
)

Gate = GateKind | Annotated[float, Field(strict=True)]


@METHODS.register
class UniPELT(TuningMethod):
    """Adapter, prefix, LoRA and bias shifts together; gates learn, by layer and example, which of them help."""

    name: Literal["unipelt"] = "unipelt"
    summary: ClassVar[str] = "train adapter, prefix and LoRA together, each behind a learned gate"
    paper: ClassVar[Paper] = Paper(
        title="UniPELT: A Unified Framework for Parameter-Efficient Language Model Tuning",
        authors="Mao, Mathias, Hou, Almahairi, Ma, Han, Yih, Khabsa",
        venue="ACL 2022",
        url="https://aclanthology.org/2022.acl-long.433/",
    )
    default_learning_rate: ClassVar[float] = 3e-3
    may_change: ClassVar[tuple[str, ...]] = ("recorded_examples",)
    parts: list[Part] = Field(
        ["adapter", "prefix", "lora"], description="Any of adapter, prefix, lora and bitfit (shifts of bias terms)."
    )
    gates: Gate | dict[Part, Gate] = Field(
        "learned",
        description="learned, none, or a fixed number; one for all parts or a mapping from part to gate, in which a "
        "part that is left out has a learned gate.",
    )
    gate_pooling: GatePooling | None = Field(
        None,
        description="How the gate values of the tokens become one: mask_aware (mean over text), all (mean over text "
        "and padding), first_token, or per_token (no pooling). Null is mask_aware; layers that write text always use "
        "per_token.",
    )
    shared_lora_gate: bool = Field(False, description="One gate for all LoRA targets of an attention module.")
    add_central_gate: bool = Field(
        False, description="Scale LoRA and prefix, on top of their gates, by shares that sum to 1."
    )
    prefix_length: int = Field(10, description="Prefix columns.")
    prefix_projection: bool = Field(True, description="Make the prefix from one table by a network while training.")
    prefix_projection_width: int = Field(PROJECTION_WIDTH, description="Hidden width of that network.")
    prefix_sites: list[Site] | None = Field(
        None, description="Encoder-decoders: which attention gets a prefix, of encoder, decoder and cross; null is all."
    )
    lora_targets: list[Role] = Field(["query", "value"], description="Projections with LoRA: query, key, value.")
    lora_rank: int = Field(8, description="Rank of LoRA.")
    lora_alpha: float = Field(
        16.0, description="Without gate, LoRA is scaled by alpha / rank; a gate takes that factor's place."
    )
    adapter_reduction: float | None = Field(
        None, description="The adapter's hidden width is the model's divided by this; null with no bottleneck is 16."
    )
    adapter_bottleneck: int | None = Field(None, description="The adapter's hidden width, in place of reduction.")
    adapter_activation: Activation = Field("relu", description="The adapter's non-linearity.")
    adapter_init: Init = Field("normal", description="First weights of the adapter, as in `bottleneck`.")
    adapter_dropout: float = Field(0.0, description="Dropout after the adapter's non-linearity.")
    drop_first_layers: int = Field(0, description="The first k layers of every stack get no adapter and no prefix.")

    prefix_learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate of the prefix. Null is 0.001 where a network makes it, since a higher one can "
        "wreck the network in the middle of a training, else that of the other parts.",
    )
    recorded_examples: int = Field(
        256, ge=0, description="Validation examples whose gate values are recorded after training; 0 records none."
    )

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        check_unipelt(self)
        if self.prefix_learning_rate is not None and "prefix" not in self.parts:
            raise ValueError("prefix_learning_rate would have no effect without the part prefix: leave it out")
        return self

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with UniPELT.

        Raises:
            ModelError: the model's layers are not of a known make, its attention can't take a prefix, or pooled
                gates were asked for where it writes text.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.unipelt import UniPELTConfig

        options = self.model_dump(exclude={"name", "recorded_examples", "prefix_learning_rate"})
        return wrap(model, UniPELTConfig(task_type=context.task_type, **options), context)

    def parameter_groups(self, model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """The prefix with its own rate, all else with the other."""
        from luthier.methods.prefix_table import prefix_parameters
        from luthier.methods.wrapping import groups, trainable

        named, prefix = trainable(model), prefix_parameters(model)
        rate = self.prefix_learning_rate or (NETWORK_RATE if self.prefix_projection else learning_rate)
        return groups(
            ([(name, p) for name, p in named if id(p) not in prefix], learning_rate, weight_decay),
            ([(name, p) for name, p in named if id(p) in prefix], rate, weight_decay),
        )

    def examine(self, model: nn.Module, forward: Callable[[int], None]) -> dict[str, Any]:
        """`gates`, a row for each learned gate of each layer (`GateRecord.rows`), and a plot of them."""
        from luthier.tuning.unipelt import record_gates
        from luthier.tuning.unipelt.reporting import gate_sections

        if not self.recorded_examples:
            return {}
        with record_gates(model) as record:
            forward(self.recorded_examples)
        rows = record.rows()
        return {"gates": rows, "sections": gate_sections(rows)} if rows else {}
