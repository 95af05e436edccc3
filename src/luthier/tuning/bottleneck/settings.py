"""Bottleneck adapters in a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.methods.base import MethodContext, TuningMethod
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper
from luthier.tuning.bottleneck.options import BottleneckOptions

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "BOTTLENECK",
    "luthier.tuning.bottleneck.tuner",
    why_not_exported="its networks stand inside the layers and depend on the input",
)


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

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with bottleneck adapters.

        Raises:
            ModelError: the model's layers are not of a known make, or fewer than drop_first_layers.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.bottleneck import BottleneckConfig

        return wrap(model, BottleneckConfig(task_type=context.task_type, **self.option_values()), context)
