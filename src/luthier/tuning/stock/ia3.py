"""IA3, through PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.methods.base import MethodContext, TuningMethod
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@METHODS.register
class IA3(TuningMethod):
    """Trained vectors rescale keys, values and the inner feed-forward activations."""

    name: Literal["ia3"] = "ia3"
    summary: ClassVar[str] = "train vectors that rescale keys, values and feed-forward activations"
    paper: ClassVar[Paper] = Paper(
        title="Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
        authors="Liu, Tam, Muqeeth, Mohta, Huang, Bansal, Raffel",
        venue="NeurIPS 2022",
        url="https://arxiv.org/abs/2205.05638",
    )
    default_learning_rate: ClassVar[float] = 3e-2
    target_modules: list[str] | None = Field(
        None,
        min_length=1,
        description="Names of the layers to rescale; null takes keys, values and feed-forward outputs, and in BERT, "
        "RoBERTa, ELECTRA and DeBERTa the attention's output, too, which is called `output.dense` there as well (PEFT "
        "does the same).",
    )
    feedforward_modules: list[str] | None = Field(
        None,
        description="Those of `target_modules` whose input is rescaled instead of their output; null takes the "
        "feed-forward layers among them.",
    )

    def adapter_config(self) -> Mapping[str, Any]:
        return {"peft_type": "IA3"}

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with PEFT's IA3.

        Raises:
            RecipeError: a module is not in the model, or a feed-forward module is not among the targets.
            ModelError: no attention projection is found by name.
        """
        from peft import IA3Config

        from luthier.methods.wrapping import wrap

        targets, feedforward = self._layers(model)
        config = IA3Config(task_type=context.task_type, target_modules=targets, feedforward_modules=feedforward)
        return wrap(model, config, context, self)

    def _layers(self, model: PreTrainedModel) -> tuple[list[str] | None, list[str] | None]:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

        from luthier.errors import RecipeError
        from luthier.methods.targets import (
            FEEDFORWARD_OUTPUTS,
            KEY_VALUE_PROJECTIONS,
            check_targets,
            default_targets,
            names_in,
        )

        wanted = self.target_modules
        if wanted is None and self.feedforward_modules is None:
            # PEFT's table has queries in the place of keys for several architectures.
            attention, outputs = names_in(model, KEY_VALUE_PROJECTIONS), names_in(model, FEEDFORWARD_OUTPUTS)
            if attention and outputs:
                return [*attention, *outputs], outputs
            wanted = default_targets(model, KNOWN, (*KEY_VALUE_PROJECTIONS, *FEEDFORWARD_OUTPUTS))
            return wanted, outputs if wanted else None
        if wanted is None:
            raise RecipeError(
                "feedforward_modules chooses among target_modules, which are left out", fix="list target_modules too"
            )
        feedforward = self.feedforward_modules
        if feedforward is None:
            feedforward = [name for name in wanted if name in FEEDFORWARD_OUTPUTS]
        stray = [name for name in feedforward if name not in wanted]
        if stray:
            raise RecipeError(
                f"feedforward_modules holds {', '.join(stray)}, which target_modules does not",
                fix="list the feed-forward modules under target_modules too",
            )
        check_targets(model, wanted)
        return wanted, feedforward
