"""BitFit: training the bias terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import ModelError, a_model
from luthier.methods.base import MethodContext, TuningMethod
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


# What the first layers of the feed-forward part are called, where it is not BERT's `intermediate.dense`.
_WIDE = ("fc1", "lin1", "ffn", "c_fc", "fc_in", "up_proj", "gate_proj", "gate_up_proj", "Wi")


@METHODS.register
class BitFit(TuningMethod):
    """Bias terms and the task head are trained, all else is frozen."""

    name: Literal["bitfit"] = "bitfit"
    summary: ClassVar[str] = "train the bias terms"
    paper: ClassVar[Paper] = Paper(
        title="BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
        authors="Ben Zaken, Goldberg, Ravfogel",
        venue="ACL 2022",
        url="https://aclanthology.org/2022.acl-short.1/",
    )
    default_learning_rate: ClassVar[float] = 3e-3
    saves_adapter: ClassVar[bool] = False
    targets: Literal["all", "query_and_feedforward"] = Field(
        "all",
        description="Which biases: all of them, or only those of the attention queries and of the wide "
        "feed-forward layer (the paper's half-size variant).",
    )

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Freeze all but biases and head.

        Raises:
            ModelError: the model has no such bias.
        """
        from luthier.methods.heads import head_modules, train_only

        head = head_modules(model, context.task_type)
        biases = self._biases(model, head)
        if not biases:
            raise ModelError(
                f"bitfit has nothing to train: {a_model(model.config.model_type)} has no such bias terms",
                fix="use lora, ia3 or prompt",
            )
        train_only(model, head)
        for bias in biases:
            bias.requires_grad_(True)
        return model

    def _biases(self, model: Any, head: list[str]) -> list[nn.Parameter]:
        from luthier.methods.targets import FUSED

        heads = tuple(f"{part}." for part in head)
        found = {
            name: p for name, p in model.named_parameters() if name.endswith("bias") and not name.startswith(heads)
        }
        if self.targets == "all":
            return list(found.values())
        # Where one matrix makes queries, keys and values, its bias can't be trained for the queries alone.
        if any(name.split(".")[-2] in FUSED for name in found if "." in name):
            return []
        return [p for name, p in found.items() if _in_half(name)]


def _in_half(name: str) -> bool:
    from luthier.methods.targets import QUERY

    *_, outer, module, leaf = ["", "", *name.split(".")]
    wide = module in _WIDE or (outer, module) == ("intermediate", "dense")
    # DeBERTa keeps the bias of its queries beside the matrix.
    return wide or module in QUERY or leaf == "q_bias"
