"""Residual Prompt Tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.methods.base import MethodContext
from luthier.methods.prompt_method import PromptMethod, check_prompts_fit, text_ids
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper
from luthier.tuning.residual_prompt.options import OPTION_NAMES, Activation, Reparameterizer, complete_options

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "RESIDUAL_PROMPT",
    "luthier.tuning.residual_prompt.encoder",
    exported_by="luthier.tuning.residual_prompt.fold:exported_prompt",
)


@METHODS.register
class ResidualPrompt(PromptMethod):
    """Prompt vectors that pass through a small network with a skip connection while they are trained."""

    name: Literal["residual_prompt"] = "residual_prompt"
    summary: ClassVar[str] = "prompt tuning through a small residual network, folded away afterwards"
    paper: ClassVar[Paper] = Paper(
        title="Residual Prompt Tuning: Improving Prompt Tuning with Residual Reparameterization",
        authors="Razdaibiedina, Mao, Khabsa, Lewis, Hou, Ba, Almahairi",
        venue="Findings of ACL 2023",
        url="https://arxiv.org/abs/2305.03937",
    )
    default_learning_rate: ClassVar[float] = 1e-3
    length: int = Field(10, gt=0, description="Prompt length: trained vectors in front of the text.")
    head_learning_rate: float | None = Field(
        1e-2, gt=0, description="Peak learning rate of the task head; null takes that of the prompt."
    )
    network_learning_rate: float | None = Field(
        1e-3, gt=0, description="Peak learning rate of the network; null takes that of the prompt."
    )
    network_weight_decay: float = Field(1e-5, ge=0, description="Weight decay of the network's matrices.")
    reparameterizer: Reparameterizer = Field(
        "mlp",
        description="Network over the prompt: mlp (bottleneck), mlp2 (two in a row), lstm (bidirectional, over the "
        "prompt vectors), transformer (over the prompt vectors), none.",
    )
    residual: bool | None = Field(
        None, description="Add the prompt to the network's output; null is true where there is a network."
    )
    bottleneck: int | None = Field(
        None,
        gt=0,
        description="Hidden width of the MLP, null is 400; or of the transformer's feed-forward part, null is 2048.",
    )
    layer_norm: bool | None = Field(
        None,
        description="LayerNorm at the end of the branch; null is true for mlp and mlp2, false for the others.",
    )
    activation: Activation | None = Field(None, description="Non-linearity of MLP and transformer; null is relu.")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Dropout in the network; null is 0 for MLPs and one LSTM layer, 0.05 for more of those and "
        "for the transformer.",
    )
    shared: bool | None = Field(
        None, description="One MLP for all prompt vectors; false gives each its own; null is true."
    )
    tied: bool | None = Field(
        None, description="mlp2: both halves have the same weights, as in the released code; null is true."
    )
    layers: int | None = Field(
        None, gt=0, description="Layers of the LSTM, null is 1; or of the transformer, null is 2."
    )
    init: Literal["vocabulary", "uniform", "text", "tensor"] = Field(
        "uniform",
        description="What the prompt starts from: embeddings of tokens drawn from the vocabulary, "
        "uniform(-0.5, 0.5), embeddings of a text, or a tensor from a file.",
    )
    init_text: str | None = Field(None, description="The text of `init: text`, cut or repeated to the length.")
    init_file: str | None = Field(
        None, description="The safetensors file of `init: tensor`; it holds one tensor of length by width."
    )
    freeze_dropout: bool = Field(False, description="Switch the dropout of the frozen model off while training.")

    @model_validator(mode="after")
    def _options_have_effect(self) -> Self:
        complete_options(self.reparameterizer, self._options())
        for init, name in (("text", "init_text"), ("tensor", "init_file")):
            if (self.init == init) != bool(getattr(self, name)):
                raise ValueError(f"{name} goes with `init: {init}`, and only with it")
        return self

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OPTION_NAMES}

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with the Residual Prompt Tuning adapter.

        Raises:
            ModelError: the model does not take vectors in place of token ids, or the first prompt can't be made.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.residual_prompt import ResidualPromptConfig

        check_prompts_fit(model, context, self.name)
        config = ResidualPromptConfig(
            task_type=context.task_type,
            num_virtual_tokens=self.length,
            reparameterizer=self.reparameterizer,
            **self._options(),
            prompt_init=self.init,
            prompt_init_seed=None if self.init in ("text", "tensor") else context.seed,
            prompt_init_ids=text_ids(self.init_text, context) if self.init_text else None,
            prompt_init_file=self.init_file,
            freeze_dropout=self.freeze_dropout,
        )
        return wrap(model, config, context)

    def files(self) -> list[Path]:
        return [Path(self.init_file)] if self.init_file else []

    def network_schedule(self, learning_rate: float, weight_decay: float) -> tuple[float, float]:
        return self.network_learning_rate or learning_rate, self.network_weight_decay
