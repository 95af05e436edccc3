"""The `lengthen` stage: a causal language model learns to use longer texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.context.corpus_settings import MixtureSettings
from luthier.context.curriculum import LengthCurriculum
from luthier.context.instruction.stage import Instruct
from luthier.context.long_answers import LongAnswersSuite
from luthier.context.paper import LONG_CONTEXT
from luthier.context.rope_settings import RopeSettings
from luthier.context.suite import ContextSuite
from luthier.errors import RecipeError
from luthier.language_modeling.settings import (
    BUDGETS,
    ContextParallelSettings,
    LanguageTrainingSettings,
    MaskingSettings,
)
from luthier.registry import STAGES
from luthier.settings import Paper, Settings
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference
from luthier.stages.base import Stage, StageInputs
from luthier.training.settings import Beta

__all__ = ["ContextSuite", "CurriculumStage", "Instruct", "Lengthen", "LongAnswersSuite"]
_SINGLES = LanguageTrainingSettings.model_fields["pseudo_perplexity_tokens"].default


class CurriculumStage(Settings):
    """A part of the training at a shorter length."""

    length: int = Field(ge=8, description="Tokens of a row; it has to divide the stage's `length`.")
    share: float = Field(gt=0, le=1, description="Share of all tokens that is trained on at this length.")


@STAGES.register
class Lengthen(ContextParallelSettings, LanguageTrainingSettings, Stage):
    """Continual pretraining on longer texts with other rotary frequencies."""

    name: ClassVar[str] = "lengthen"
    summary: ClassVar[str] = "train a causal language model on longer texts, with other rotary positions"
    paper: ClassVar[Paper | None] = LONG_CONTEXT
    ports: ClassVar[Mapping[str, Port]] = {
        "model": Port(("pretrained",), about="a causal language model with rotary positions, such as llama")
    }
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {"model": ("pretrained",)}
    scores_by_step: ClassVar[bool] = True
    runs: ClassVar[str] = "luthier.context.run:run_lengthening"
    merges_adapters: ClassVar[bool] = True
    plans: ClassVar[str] = "luthier.context.planning:plan_lengthening"

    model: Reference = Field(None, description=MODEL_FIELD)
    corpus: MixtureSettings = Field(
        description="The text: a source or a list of them, or a mapping with `train`, and `domains` with their weights."
    )
    length: int = Field(ge=8, description="Tokens of the longest rows: what the model is lengthened to.")
    rope: RopeSettings = Field(
        default_factory=lambda: RopeSettings(), description="How positions are told apart on longer texts."
    )
    document_mask: Literal["none", "block"] = Field(
        "none",
        description="Whether documents that share a row see each other: `none` is one text, as published; under "
        "`block` each sees itself alone, its positions begin at 0, and its first token is no label.",
    )
    document_attention: Literal["mask", "varlen"] = Field(
        "mask",
        description="How documents are kept apart under `document_mask: block`: by a `mask` of the row's square in the "
        "model's own attention, or under `varlen` by SDPA for one document after another, without a mask.",
    )
    curriculum: list[CurriculumStage] = Field(
        default_factory=list,
        description="Shorter lengths to begin with, at the same tokens a step; what their shares leave of 1 is trained "
        "at `length`.",
    )
    learning_rate: float | None = Field(2e-5, gt=0, description="Peak learning rate; published for 7B and 13B models.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the learning rate falls after warm-up, over the tokens of all lengths together."
    )
    warmup_ratio: float = Field(0.02, ge=0, lt=1, description="Share of all steps over which the rate rises from 0.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay, on matrices only.")
    adam_betas: list[Beta] = Field(
        default_factory=lambda: [0.9, 0.95],
        min_length=2,
        max_length=2,
        description="How much AdamW keeps, at every step, of its averages of gradients and of their squares.",
    )
    held_out_rows: int | None = Field(
        64, gt=0, description="Longest rows of held-out text of each domain, always the same; null takes all."
    )

    @model_validator(mode="after")
    def _lengthening_fits(self) -> Self:
        if self.objective == "masked" or self.masking != MaskingSettings():
            raise ValueError("a model is lengthened as a causal one, which has no masks: leave this setting out")
        if self.pseudo_perplexity_tokens != _SINGLES:
            raise ValueError("`pseudo_perplexity_tokens` has no effect on a causal model")
        if self.workers:
            raise ValueError("`workers` has no effect: a mixture is tokenized while its rows are drawn")
        if self.document_attention == "varlen" and self.document_mask == "none":
            raise ValueError(
                "`document_attention: varlen` has no effect under `document_mask: none`, which is one text"
            )
        if self.context_parallel_size > 1 and (self.document_mask, self.document_attention) == ("block", "mask"):
            raise ValueError(
                "processes that share a row keep its documents apart without a mask: beside `context_parallel_size` "
                "set `document_attention: varlen`, which gives the same losses"
            )
        in_epochs = all(getattr(self, name) is None for name in BUDGETS)
        if in_epochs and not self.corpus.is_plain:
            raise ValueError("a mixture has no end to a pass: give `max_steps`, `max_tokens` or `max_flops`")
        if self.curriculum and self.max_minutes is not None:
            raise ValueError("shares of a curriculum are of a known number of steps: give no `max_minutes` beside it")
        try:
            self.lengths()
        except RecipeError as error:
            raise ValueError(f"`curriculum`: {error.what}") from None
        return self

    def row_lengths(self) -> list[int]:
        return [self.length, *(one.length for one in self.curriculum)]

    def lengths(self) -> LengthCurriculum:
        """The curriculum, with the rest at the full length.

        Raises:
            RecipeError: a length does not divide the longest, or the shares are more than 1.
        """
        stages = [(one.length, one.share) for one in self.curriculum]
        rest = 1 - sum(share for _, share in stages)
        if rest > 1e-9:
            stages.append((self.length, rest))
        found = LengthCurriculum(stages)
        if found.longest != self.length:
            raise RecipeError(f"its longest rows have {found.longest:,} tokens, and `length` is {self.length:,}")
        return found

    def language_head(self, name: str, before: str, *, read: bool) -> str:
        return "causal_lm"

    def misfit(self, kinds: Mapping[str, str], data: Any, language_head: Callable[[str], str]) -> str:
        head = language_head("model")
        return (
            "" if head in ("", "causal_lm") else f"only a causal language model can be lengthened, and this is {head}"
        )

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.language_modeling.documents import Corpus

        found = {}
        for name, one in self.corpus.by_name.items():
            found[f"{name}/train"] = Corpus(one.train, one).fingerprint()
            if one.validation:
                found[f"{name}/validation"] = Corpus(one.validation, one).fingerprint()
        return found

    def check(self, inputs: StageInputs) -> None:
        from luthier.context.checking import check_lengthening

        check_lengthening(self, inputs)
