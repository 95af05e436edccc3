"""Prompt tuning, through PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.methods.base import MethodContext
from luthier.methods.prompt_method import PromptMethod, check_prompts_fit, text_ids
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@METHODS.register
class Prompt(PromptMethod):
    """Vectors in front of the token embeddings are trained, the model is frozen."""

    name: Literal["prompt"] = "prompt"
    summary: ClassVar[str] = "train vectors in front of the token embeddings"
    paper: ClassVar[Paper] = Paper(
        title="The Power of Scale for Parameter-Efficient Prompt Tuning",
        authors="Lester, Al-Rfou, Constant",
        venue="EMNLP 2021",
        url="https://aclanthology.org/2021.emnlp-main.243/",
    )
    default_learning_rate: ClassVar[float] = 1e-3
    head_learning_rate: float | None = Field(
        1e-2, gt=0, description="Peak learning rate of the task head; null takes that of the prompt."
    )
    init: Literal["vocabulary", "text", "random"] = Field(
        "vocabulary",
        description="What the prompt starts from: embeddings of tokens drawn from the vocabulary, of a text, or noise.",
    )
    init_text: str | None = Field(None, description="The text of `init: text`, cut or repeated to the length.")

    @model_validator(mode="after")
    def _text_belongs_to_init(self) -> Self:
        if (self.init == "text") != bool(self.init_text):
            raise ValueError("init_text goes with `init: text`, and only with it")
        return self

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with PEFT's prompt tuning.

        Raises:
            ModelError: the model does not take vectors in place of token ids.
        """
        import torch
        from peft import PromptTuningConfig

        from luthier.methods.wrapping import wrap

        check_prompts_fit(model, context, self.name)
        config = PromptTuningConfig(
            task_type=context.task_type,
            num_virtual_tokens=self.length,
            num_transformer_submodules=1,
        )
        wrapped = wrap(model, config, context)
        rows = self._first_rows(model.get_input_embeddings(), context)
        if rows is not None and not rows.is_meta:
            with torch.no_grad():
                wrapped.prompt_encoder["default"].embedding.weight.copy_(rows)
        return wrapped

    def _first_rows(self, embeddings: nn.Embedding, context: MethodContext) -> Tensor | None:
        import torch

        from luthier.methods.prompt_start import token_rows, vocabulary_rows

        if self.init == "text":
            return token_rows(embeddings, text_ids(str(self.init_text), context), self.length)
        generator = torch.Generator().manual_seed(context.seed)
        return vocabulary_rows(embeddings, self.length, generator) if self.init == "vocabulary" else None
