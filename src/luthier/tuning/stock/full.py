"""Full fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.methods.base import MethodContext, TuningMethod
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@METHODS.register
class Full(TuningMethod):
    """Every parameter of the model is trained."""

    name: Literal["full"] = "full"
    summary: ClassVar[str] = "train every parameter"
    paper: ClassVar[Paper] = Paper(
        title="BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        authors="Devlin, Chang, Lee, Toutanova",
        venue="NAACL 2019",
        url="https://aclanthology.org/N19-1423/",
    )
    default_learning_rate: ClassVar[float] = 1e-4
    saves_adapter: ClassVar[bool] = False

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        model.requires_grad_(True)
        return model
