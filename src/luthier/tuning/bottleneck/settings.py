"""Bottleneck adapters: their options, and the method of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.options import Options, option
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

Placement = Literal["pfeiffer", "houlsby"]
Activation = Literal["relu", "gelu", "silu", "tanh"]
Init = Literal["normal", "near_identity", "identity"]


@dataclass(init=False, repr=False, eq=False)
class BottleneckOptions(Options):
    """Where the adapters stand, how wide they are and what they start from.

    `houlsby` and `near_identity` are those of Houlsby et al., ICML 2019; `pfeiffer` is the placement of Pfeiffer et
    al., EACL 2021, in the form that Mao et al., ACL 2022 (UniPELT) use; `normal` is BERT's own start.
    """

    placement: Placement = option(
        "pfeiffer",
        "pfeiffer: one adapter a layer, after the feed-forward part. houlsby: two a layer, after the attention and "
        "after the feed-forward part.",
    )
    reduction: float | None = option(
        None, "Hidden width is the model's divided by this; None with no bottleneck is 16.", gt=0
    )
    bottleneck: int | None = option(None, "Hidden width, in place of reduction.", ge=1)
    activation: Activation = option("relu", "Non-linearity.")
    init: Init = option(
        "normal",
        "First weights: normal (0, 0.02); near_identity, normal (0, 0.01) cut at two deviations; identity, an "
        "up-projection of zeros.",
    )
    dropout: float = option(0.0, "Dropout after the non-linearity.", ge=0, lt=1)
    drop_first_layers: int = option(0, "The first k layers of every stack get no adapter.", ge=0)

    def check(self) -> None:
        super().check()
        if self.bottleneck is not None and self.reduction is not None:
            raise ValueError("reduction and bottleneck both set the hidden width: give one of them")


def hidden_width(width: int, bottleneck: int | None, reduction: float | None) -> int:
    """Hidden width of an adapter in a model of this width; at least 1."""
    return bottleneck or max(1, int(width / (reduction or 16)))


@METHODS.register
class BottleneckAdapter(BottleneckOptions, TuningMethod):
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
    merges: ClassVar[bool] = False

    def adapter_config(self) -> Mapping[str, Any]:
        return {"peft_type": "BOTTLENECK"}

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with bottleneck adapters.

        Raises:
            ModelError: the model's layers are not of a known make, or fewer than drop_first_layers.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.bottleneck import BottleneckConfig

        return wrap(model, BottleneckConfig(task_type=context.task_type, **self.option_values()), context, self)
