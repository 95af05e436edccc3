"""How well a masked language model predicts text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.data.schemas import LabelKind
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES
from luthier.settings import Paper

_RATE, _SEED, _SAMPLE = 0.15, 0, 1000


@SUITES.register
class PseudoPerplexitySuite(Suite):
    """exp of the mean negative log-likelihood of masked tokens, of text in blocks as in pretraining.

    By default every block is read once, with a share of its tokens masked, the same ones for every model:
    `masked_perplexity`. With `exact` every token is masked alone, so that all others are there to guess it from:
    `pseudo_perplexity`, PPPL of the paper's equation 3. That takes as many passes over a block as it has tokens.
    """

    name: Literal["pseudo_perplexity"] = "pseudo_perplexity"
    summary: ClassVar[str] = "how well a masked language model guesses masked tokens, with a bootstrap interval"
    paper: ClassVar[Paper | None] = Paper(
        title="Masked Language Model Scoring",
        authors="Salazar, Liang, Nguyen, Kirchhoff",
        venue="ACL 2020",
        url="https://arxiv.org/abs/1910.14659",
    )
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = (None,)
    language_heads: ClassVar[tuple[str, ...] | None] = ("masked_lm",)

    exact: bool = Field(False, description="Mask every token alone, one pass over its block for each.")
    rate: float = Field(_RATE, gt=0, lt=1, description="Share of the tokens that are masked, without `exact`.")
    seed: int = Field(_SEED, ge=0, description="Of the masks: the same for every model, whatever the run's seed.")

    @property
    def score(self) -> str:
        """The name of its score."""
        return "pseudo_perplexity" if self.exact else "masked_perplexity"

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.exact and (self.rate, self.seed) != (_RATE, _SEED):
            raise ValueError("`rate` and `seed` have no effect beside `exact`, which masks every token")
        return self

    def planned(self, texts: Sequence[str], tokenizer: Any) -> dict[str, str]:
        """Passes over blocks, by the tokens of the first texts."""
        some = list(texts[:_SAMPLE])
        tokens = sum(map(len, tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]))
        total = round(tokens * len(texts) / max(1, len(some)))
        passes = f"{total:,}, one a token" if self.exact else "one a block"
        about = "" if len(some) == len(texts) else "about "
        return {self.name: f"{about}{total:,} tokens; passes over a block: {about if self.exact else ''}{passes}"}

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.pretraining.scoring import pseudo_perplexity

        return pseudo_perplexity(self, subject)
