"""Prefix tuning, through PEFT."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.errors import ModelError, a_model
from luthier.methods.base import MethodContext
from luthier.methods.prefix_options import NETWORK_RATE, check_network_rate
from luthier.methods.prompt_method import PromptMethod, check_prompts_fit
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@METHODS.register
class Prefix(PromptMethod):
    """Keys and values in front of those of every layer are trained, the model is frozen."""

    name: Literal["prefix"] = "prefix"
    summary: ClassVar[str] = "train keys and values in front of every layer's own"
    paper: ClassVar[Paper] = Paper(
        title="Prefix-Tuning: Optimizing Continuous Prompts for Generation",
        authors="Li, Liang",
        venue="ACL 2021",
        url="https://aclanthology.org/2021.acl-long.353/",
    )
    default_learning_rate: ClassVar[float] = 3e-2
    merges: ClassVar[bool] = False
    supports_gradient_checkpointing: ClassVar[bool] = False
    head_learning_rate: float | None = Field(
        1e-2, gt=0, description="Peak learning rate of the task head; null takes that of the prefix."
    )
    projection: bool = Field(False, description="Train a network that makes the keys and values, as in the paper.")
    hidden_size: int | None = Field(None, gt=0, description="Width of that network; null takes the model's.")
    network_learning_rate: float | None = Field(
        NETWORK_RATE, gt=0, description="Peak learning rate of that network; null takes that of the prefix."
    )

    @model_validator(mode="after")
    def _options_have_effect(self) -> Self:
        if self.hidden_size is not None and not self.projection:
            raise ValueError("hidden_size belongs to `projection: true`")
        check_network_rate(self)
        return self

    def network_schedule(self, learning_rate: float, weight_decay: float) -> tuple[float, float]:
        return self.network_learning_rate or learning_rate, weight_decay

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with PEFT's prefix tuning.

        Raises:
            ModelError: the model takes no keys and values from outside, or gradient checkpointing is on.
        """
        from peft import PrefixTuningConfig

        from luthier.methods.wrapping import wrap

        check_prompts_fit(model, context, self.name)
        _check_cache(model)
        width = model.config.hidden_size
        config = PrefixTuningConfig(
            task_type=context.task_type,
            num_virtual_tokens=self.length,
            prefix_projection=self.projection,
            encoder_hidden_size=(self.hidden_size or width) if self.projection else None,
        )
        wrapped = wrap(model, config, context, self)
        # Checkpointed layers drop the cache, and with it the prefix, in silence.
        model.supports_gradient_checkpointing = False
        return wrapped


def _check_cache(model: Any) -> None:
    body = getattr(model, model.base_model_prefix, model)
    if not any("past_key_values" in inspect.signature(part.forward).parameters for part in (model, body)):
        raise ModelError(
            f"prefix can't be put on {a_model(model.config.model_type)}, which takes no keys and values from outside",
            fix="use prompt, residual_prompt or lora",
        )
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ModelError(
            "prefix does not work with gradient checkpointing: the layers would drop the trained keys and values",
            fix="set gradient_checkpointing to false, or use prompt, residual_prompt or lora",
        )
