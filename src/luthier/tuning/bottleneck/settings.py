"""Bottleneck adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.part_options import Activation, Init, Placement, check_bottleneck
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "BOTTLENECK",
    "luthier.tuning.bottleneck.tuner",
    why_not_exported="its networks stand inside the layers and depend on the input",
)


@METHODS.register
class BottleneckAdapter(TuningMethod):
    """Two thin matrices with a non-linearity between them are added to every layer, the model is frozen."""

    name: Literal["bottleneck"] = "bottleneck"
    summary: ClassVar[str] = "train small bottleneck networks inside every layer"
    paper: ClassVar[Paper] = Paper(
        title="Parameter-Efficient Transfer Learning for NLP",
        authors="Houlsby, Giurgiu, Jastrzebski, Morrone, de Laroussilhe, Gesmundo, Attariyan, Gelly",
        venue="ICML 2019",
        url="https://proceedings.mlr.press/v97/houlsby19a.html",
    )
    default_learning_rate: ClassVar[float] = 3e-3
    placement: Placement = Field(
        "pfeiffer",
        description="pfeiffer: one adapter a layer, after the feed-forward part. houlsby: two a layer, after the "
        "attention and after the feed-forward part.",
    )
    reduction: float | None = Field(
        None, description="Hidden width is the model's divided by this; null with no bottleneck is 16."
    )
    bottleneck: int | None = Field(None, description="Hidden width, in place of reduction.")
    activation: Activation = Field("relu", description="Non-linearity.")
    init: Init = Field(
        "normal",
        description="First weights: normal (0, 0.02); near_identity, normal (0, 0.01) cut at two deviations; identity, "
        "an up-projection of zeros.",
    )
    dropout: float = Field(0.0, description="Dropout after the non-linearity.")
    drop_first_layers: int = Field(0, description="The first k layers of every stack get no adapter.")

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        check_bottleneck(self)
        return self

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with bottleneck adapters.

        Raises:
            ModelError: the model's layers are not of a known make, or fewer than drop_first_layers.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.bottleneck import BottleneckConfig

        options = self.model_dump(exclude={"name"})
        return wrap(model, BottleneckConfig(task_type=context.task_type, **options), context)
