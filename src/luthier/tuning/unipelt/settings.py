"""UniPELT in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.prefix_options import NETWORK_RATE
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper
from luthier.tuning.unipelt.options import UniPELTOptions

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "UNIPELT",
    "luthier.tuning.unipelt.tuner",
    why_not_exported="its gates and networks depend on the input, so that no prefix stands for it",
)


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

    def check(self) -> None:
        super().check()
        if self.prefix_learning_rate is not None and "prefix" not in self.parts:
            raise ValueError("prefix_learning_rate would have no effect without the part prefix: leave it out")

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with UniPELT.

        Raises:
            ModelError: the model's layers are not of a known make, its attention can't take a prefix, or pooled
                gates were asked for where it writes text.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.unipelt import UniPELTConfig

        return wrap(model, UniPELTConfig(task_type=context.task_type, **self.option_values()), context)

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
