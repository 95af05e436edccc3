"""Training the task head on a frozen model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.errors import ModelError
from luthier.methods.base import MethodContext, TuningMethod
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@METHODS.register
class HeadOnly(TuningMethod):
    """The task head is trained, the pretrained model is frozen."""

    name: Literal["head_only"] = "head_only"
    summary: ClassVar[str] = "train the task head on a frozen model (linear probing)"
    paper: ClassVar[Paper] = Paper(
        title="Understanding intermediate layers using linear classifier probes",
        authors="Alain, Bengio",
        venue="ICLR 2017 workshop",
        url="https://arxiv.org/abs/1610.01644",
    )
    default_learning_rate: ClassVar[float] = 3e-2
    save_base_model: bool = Field(
        False,
        description="Save the frozen base model with the head. Without it the head's weights alone are saved, with the "
        "base's reference and fingerprint, and the base has to stay where it is; `luthier export` writes both as one "
        "model.",
    )

    @property
    def saves_adapter(self) -> bool:  # type: ignore[override]
        """Unless the base is saved with the head."""
        return not self.save_base_model

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Freeze all but the head.

        Raises:
            ModelError: the model has no task head.
        """
        from luthier.methods.heads import head_modules, train_only
        from luthier.models.saved_head import SavedHead, save_head_only

        head = head_modules(model, context.task_type)
        if not head:
            raise ModelError(
                "head_only has nothing to train: a language model has no task head of its own",
                fix="use lora, prompt or full, or a task with labels",
            )
        train_only(model, head)
        if not self.save_base_model:
            save_head_only(model, SavedHead(tuple(head), context.task_type))
        return model
