"""LoRA, through PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.methods.base import MethodContext, TuningMethod
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@METHODS.register
class Lora(TuningMethod):
    """A trained product of two thin matrices is added to the frozen weights."""

    name: Literal["lora"] = "lora"
    summary: ClassVar[str] = "train a low-rank addition to chosen weight matrices"
    paper: ClassVar[Paper] = Paper(
        title="LoRA: Low-Rank Adaptation of Large Language Models",
        authors="Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen",
        venue="ICLR 2022",
        url="https://openreview.net/forum?id=nZeVKeeFYf9",
    )
    default_learning_rate: ClassVar[float] = 3e-3
    rank: int = Field(8, gt=0, description="Rank of the addition.")
    alpha: float = Field(16.0, gt=0, description="The addition is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the addition's input.")
    target_modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] | None = Field(
        None,
        description="Names of the layers to add to, or `all-linear`; null takes what PEFT has for the "
        "architecture, mostly query and value projections, or all attention projections where it has nothing.",
    )
    rank_stabilized: bool = Field(False, description="Scale by alpha / sqrt(rank) instead (rsLoRA).")
    dora: bool = Field(False, description="Train the length of every weight column apart from its direction (DoRA).")

    def adapter_config(self) -> Mapping[str, Any]:
        return {"peft_type": "LORA", "r": self.rank, "use_dora": self.dora}

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with PEFT's LoRA.

        Raises:
            RecipeError: a target module is not in the model.
            ModelError: no attention projection is found by name.
        """
        from peft import LoraConfig
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

        from luthier.methods.targets import ATTENTION_PROJECTIONS, check_targets, default_targets
        from luthier.methods.wrapping import wrap

        targets = self.target_modules or default_targets(model, KNOWN, ATTENTION_PROJECTIONS)
        if targets is not None:
            check_targets(model, targets)
        config = LoraConfig(
            task_type=context.task_type,
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            use_rslora=self.rank_stabilized,
            use_dora=self.dora,
        )
        return wrap(model, config, context, self)
