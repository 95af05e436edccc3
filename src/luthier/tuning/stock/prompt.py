"""Prompt tuning, through PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.methods.base import MethodContext
from luthier.methods.prompt_method import PlaceOptions, PromptMethod, check_prompts_fit, text_ids
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@METHODS.register
class Prompt(PlaceOptions, PromptMethod):
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
    merges: ClassVar[bool] = False
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
        """Wrap with PEFT's prompt tuning; behind [CLS], with a residual prompt without network.

        PEFT's checkpoints can't say that a prompt stands elsewhere than before the text. One of ours does, and without
        Luthier it is refused and not read as something else.

        Raises:
            ModelError: the model does not take vectors in place of token ids, or has no [CLS].
        """
        import torch

        from luthier.methods.wrapping import wrap

        check_prompts_fit(model, context, self.name)
        wrapped = wrap(model, self._config(context), context, self)
        rows = self._first_rows(model.get_input_embeddings(), context)
        if rows is not None and not rows.is_meta:
            with torch.no_grad():
                wrapped.prompt_encoder["default"].embedding.weight.copy_(rows)
        return wrapped

    def _config(self, context: MethodContext) -> PeftConfig:
        if self.insert == "before_text":
            from peft import PromptTuningConfig

            return PromptTuningConfig(
                task_type=context.task_type, num_virtual_tokens=self.length, num_transformer_submodules=1
            )
        from luthier.tuning.residual_prompt import ResidualPromptConfig

        return ResidualPromptConfig(
            task_type=context.task_type, num_virtual_tokens=self.length, reparameterizer="none", insert=self.insert
        )

    def _first_rows(self, embeddings: nn.Embedding, context: MethodContext) -> Tensor | None:
        """(length, width), or None for the noise that PEFT itself starts from."""
        import torch

        from luthier.methods.prompt_start import token_rows, vocabulary_rows

        if self.init == "text":
            return token_rows(embeddings, text_ids(str(self.init_text), context), self.length)
        generator = torch.Generator().manual_seed(context.seed)
        if self.init == "vocabulary":
            return vocabulary_rows(embeddings, self.length, generator)
        if self.insert == "before_text":
            return None
        return torch.randn(self.length, embeddings.embedding_dim, generator=generator)
