"""UniPELT: its options, and the method of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.options import Options, option, refuse_idle
from luthier.methods.prefix_options import NETWORK_RATE, PROJECTION_WIDTH, Site
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper
from luthier.tuning.bottleneck.settings import Activation, Init

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "UNIPELT",
    "luthier.tuning.unipelt.tuner",
    why_not_exported="its gates and networks depend on the input, so that no prefix stands for it",
)

Part = Literal["adapter", "prefix", "lora", "bitfit"]
GateKind = Literal["learned", "none"]
# Strict: a recipe's `1` is a number, and its `true` is none.
Gate = GateKind | Annotated[float, Field(strict=True)]
GatePooling = Literal["mask_aware", "all", "first_token", "per_token"]
Role = Literal["query", "key", "value"]


@dataclass(init=False, repr=False, eq=False)
class UniPELTOptions(Options):
    """Which parts every layer has, how large they are, and what stands as a gate before each of them.

    The defaults are those of Mao et al., ACL 2022 (variant APL), but that gates leave padding out of their mean; the
    released code counts it (`gate_pooling="all"`). Layers that write text have a gate for every token, since a mean
    over the text would show a token those behind it and would change with every token that is written.

    The central gate is in the released code alone, and takes the place of the gates of LoRA and prefix there
    (`central_gate_replaces=True`).
    """

    parts: list[Part] = option(
        ["adapter", "prefix", "lora"], "Any of adapter, prefix, lora and bitfit (shifts of bias terms)."
    )
    gates: Gate | dict[Part, Gate] = option(
        "learned",
        "learned, none, or a fixed number; one for all parts or a mapping from part to gate, in which a part that is "
        "left out has a learned gate.",
    )
    gate_pooling: GatePooling | None = option(
        None,
        "How the gate values of the tokens become one: mask_aware (mean over text), all (mean over text and padding), "
        "first_token, or per_token (no pooling). None is mask_aware; layers that write text always use per_token.",
    )
    shared_lora_gate: bool = option(False, "One gate for all LoRA targets of an attention module.")
    add_central_gate: bool = option(False, "Scale LoRA and prefix, on top of their gates, by shares that sum to 1.")
    central_gate_replaces: bool = option(
        False, "These shares stand in the place of the gates of LoRA and prefix, as in the released code."
    )
    prefix_length: int = option(10, "Prefix columns.", ge=1)
    prefix_projection: bool = option(True, "Make the prefix from one table by a network while training.")
    prefix_projection_width: int = option(PROJECTION_WIDTH, "Hidden width of that network.", ge=1)
    prefix_sites: list[Site] | None = option(
        None, "Encoder-decoders: which attention gets a prefix, of encoder, decoder and cross; None is all."
    )
    lora_targets: list[Role] = option(["query", "value"], "Projections with LoRA: query, key, value.")
    lora_rank: int = option(8, "Rank of LoRA.", ge=1)
    lora_alpha: float = option(
        16.0, "Without gate, LoRA is scaled by alpha / rank; a gate takes that factor's place.", gt=0
    )
    adapter_reduction: float | None = option(
        None, "The adapter's hidden width is the model's divided by this; None with no bottleneck is 16.", gt=0
    )
    adapter_bottleneck: int | None = option(None, "The adapter's hidden width, in place of reduction.", ge=1)
    adapter_activation: Activation = option("relu", "The adapter's non-linearity.")
    adapter_init: Init = option("normal", "First weights of the adapter, as in `bottleneck`.")
    adapter_dropout: float = option(0.0, "Dropout after the adapter's non-linearity.", ge=0, lt=1)
    drop_first_layers: int = option(0, "The first k layers of every stack get no adapter and no prefix.", ge=0)

    def check(self) -> None:
        super().check()
        parts = set(self.parts)
        if isinstance(self.gates, dict) and (stray := [part for part in self.gates if part not in parts]):
            raise ValueError(f"gates names {', '.join(stray)}, but the parts are {', '.join(self.parts)}")
        for part in self.parts:
            gate = self.gate_of(part)
            if gate not in get_args(GateKind) and (isinstance(gate, bool) or not isinstance(gate, int | float)):
                raise ValueError(f"the gate of {part} is {gate!r}, but must be learned, none or a number")
            if not isinstance(gate, str) and not math.isfinite(gate):
                raise ValueError(f"the gate of {part} is {gate}, but must be a finite number")
        if self.adapter_bottleneck is not None and self.adapter_reduction is not None:
            raise ValueError("adapter_reduction and adapter_bottleneck both set the hidden width: give one of them")
        learned = {part for part in parts if self.gate_of(part) == "learned"}
        # A layer without prefix has no central gate, so LoRA's own one stays there.
        everywhere = not self.drop_first_layers and self.prefix_sites is None
        replaced = {"prefix", *(["lora"] if everywhere else [])} if self.central_gate_replaces else set()
        refuse_idle(
            gates=isinstance(self.gates, dict) and bool(replaced & set(self.gates)),
            central_gate_replaces=self.central_gate_replaces and not self.add_central_gate,
            gate_pooling=self.gate_pooling is not None and not (learned or self.add_central_gate),
            shared_lora_gate=self.shared_lora_gate and "lora" not in learned - replaced,
            add_central_gate=self.add_central_gate and not {"lora", "prefix"} <= parts,
            prefix_projection_width=self.prefix_projection_width != PROJECTION_WIDTH
            and not (self.prefix_projection and "prefix" in parts),
            prefix_sites=self.prefix_sites is not None and "prefix" not in parts,
            drop_first_layers=bool(self.drop_first_layers) and not {"adapter", "prefix"} & parts,
            **{
                name: bool(getattr(self, name)) and "adapter" not in parts
                for name in ("adapter_bottleneck", "adapter_reduction", "adapter_dropout")
            },
        )

    def gate_of(self, part: Part) -> GateKind | float:
        """The gate of a part: "learned", "none" or a fixed number."""
        return self.gates.get(part, "learned") if isinstance(self.gates, dict) else self.gates


@METHODS.register
class UniPELT(UniPELTOptions, TuningMethod):
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
    merges: ClassVar[bool] = False
    may_change: ClassVar[tuple[str, ...]] = ("recorded_examples",)
    prefix_learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate of the prefix. Null is 0.001 where a network makes it, since a higher one can "
        "wreck the network in the middle of a training, else that of the other parts.",
    )
    recorded_examples: int = Field(
        256, ge=0, description="Validation examples whose gate values are recorded after training; 0 records none."
    )

    def adapter_config(self) -> Mapping[str, Any]:
        return {"peft_type": "UNIPELT"}

    def check(self) -> None:
        super().check()
        if self.prefix_learning_rate is not None and "prefix" not in self.parts:
            raise ValueError("prefix_learning_rate would have no effect without the part prefix: leave it out")
        fields = type(self).model_fields
        refuse_idle(
            **{
                name: name.split("_")[0] not in self.parts and getattr(self, name) != fields[name].default
                for name in ("lora_rank", "prefix_length", "prefix_projection", "adapter_activation", "adapter_init")
            },
            lora_targets="lora" not in self.parts and self.lora_targets != fields["lora_targets"].default,
            lora_alpha=self.lora_alpha != fields["lora_alpha"].default
            and not ("lora" in self.parts and self.gate_of("lora") == "none"),
        )

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with UniPELT.

        Raises:
            ModelError: the model's layers are not of a known make, its attention can't take a prefix, or pooled
                gates were asked for where it writes text.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.unipelt import UniPELTConfig

        return wrap(model, UniPELTConfig(task_type=context.task_type, **self.option_values()), context, self)

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
        from luthier.methods.gates import gate_sections, record_gates

        if not self.recorded_examples:
            return {}
        with record_gates(model) as record:
            forward(self.recorded_examples)
        rows = record.rows()
        return {"gates": rows, "sections": gate_sections(rows)} if rows else {}
