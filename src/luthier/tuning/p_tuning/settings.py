"""P-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.methods.base import MethodContext
from luthier.methods.prompt_method import PlaceOptions, PromptMethod, check_prompts_fit
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "PLACED_P_TUNING",
    "luthier.tuning.p_tuning.encoder",
    why_not_exported="its prompt stands behind [CLS], and an engine puts a prompt before the text",
)


@METHODS.register
class PTuning(PlaceOptions, PromptMethod):
    """A network without skip makes the vectors in front of the token embeddings."""

    name: Literal["p_tuning"] = "p_tuning"
    summary: ClassVar[str] = "train a network that makes the vectors in front of the token embeddings"
    paper: ClassVar[Paper] = Paper(
        title="GPT Understands, Too",
        authors="Liu, Zheng, Du, Ding, Qian, Yang, Tang",
        venue="AI Open 2024",
        url="https://arxiv.org/abs/2103.10385",
    )
    default_learning_rate: ClassVar[float] = 1e-2
    merges: ClassVar[bool] = False
    reparameterization: Literal["mlp", "lstm"] = Field("mlp", description="Network that makes the vectors.")
    hidden_size: int | None = Field(
        None, gt=0, description="Width of the network; null takes that of the token embeddings."
    )
    layers: int | None = Field(None, gt=0, description="Layers of the LSTM; null takes 2.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Dropout between LSTM layers; null takes 0.")

    @model_validator(mode="after")
    def _options_have_effect(self) -> Self:
        if self.reparameterization == "mlp" and (self.layers is not None or self.dropout is not None):
            raise ValueError("layers and dropout belong to `reparameterization: lstm`; the MLP has neither")
        if self.layers == 1 and self.dropout:
            raise ValueError("dropout acts between LSTM layers and would have no effect with layers 1")
        return self

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with PEFT's P-tuning; behind [CLS], with ours.

        Raises:
            ModelError: the model does not take vectors in place of token ids, or has no [CLS].
        """
        from peft import PromptEncoderConfig

        from luthier.methods.wrapping import wrap
        from luthier.tuning.p_tuning import PTuningConfig

        check_prompts_fit(model, context, self.name)
        width = model.get_input_embeddings().embedding_dim
        lstm = {"encoder_num_layers": self.layers or 2, "encoder_dropout": self.dropout or 0.0}
        behind = self.insert == "after_cls"
        config_cls = PTuningConfig if behind else PromptEncoderConfig
        config = config_cls(
            task_type=context.task_type,
            num_virtual_tokens=self.length,
            num_transformer_submodules=1,
            encoder_hidden_size=self.hidden_size or width,
            encoder_reparameterization_type=self.reparameterization.upper(),
            **(lstm if self.reparameterization == "lstm" else {}),
        )
        wrapped = wrap(model, config, context, self)
        if not behind:
            _free_network(wrapped)
        return wrapped


def _free_network(model: Any) -> None:
    """Undo that PEFT, which looks for a task head called `head` by the end of names, takes `mlp_head` for one."""
    from peft.utils import ModulesToSaveWrapper

    encoder = model.prompt_encoder["default"]
    if isinstance(encoder.mlp_head, ModulesToSaveWrapper):
        encoder.mlp_head = encoder.mlp_head.original_module.requires_grad_(True)
