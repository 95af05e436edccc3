"""Whether a causal model uses long texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.context.paper import LONG_CONTEXT
from luthier.data.schemas import LabelKind
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES
from luthier.settings import Paper

_DEPTHS, _HOPS = [0.0, 0.25, 0.5, 0.75, 1.0], [1, 2, 4]


@SUITES.register
class ContextSuite(Suite):
    """Retrieval of a first sentence, of a pass key and of one key of several, variables that are tracked, the loss at
    every position, and the law that it follows.

    Each length is of the whole prompt and its answer. A model that is too small to write an answer still shows by the
    likelihood of the right one against another whether it has seen it: `prefers` is half by chance.
    """

    name: Literal["context"] = "context"
    summary: ClassVar[str] = "what a causal model uses of long texts: retrieval by length and depth, loss by position"
    paper: ClassVar[Paper | None] = LONG_CONTEXT
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = (None,)
    language_heads: ClassVar[tuple[str, ...] | None] = ("causal_lm",)

    lengths: list[int] | None = Field(
        None,
        min_length=1,
        description="Tokens of the prompts; null is an eighth, a quarter, a half and the whole of what the model was "
        "trained on. Longer ones show what lies beyond.",
    )
    depths: list[float] = Field(
        default_factory=lambda: list(_DEPTHS),
        min_length=1,
        description="Where keys stand in the filler, from 0, its start, to 1.",
    )
    samples: int = Field(50, gt=1, description="Texts of each length that are asked for their first sentence.")
    keys: int = Field(10, ge=0, description="Pass keys of each length and depth; 0 leaves this probe out.")
    multi_keys: int = Field(
        3,
        ge=0,
        description="Texts of each length with a key at every depth, each of which is asked for; 0 leaves this out, as "
        "does a single depth.",
    )
    tracked: int = Field(
        3,
        ge=0,
        description="Texts of each length with two chains of variables, which are both asked for; 0 leaves this out.",
    )
    hops: list[Annotated[int, Field(gt=0)]] = Field(
        default_factory=lambda: list(_HOPS),
        min_length=1,
        description="How many variables of a chain get their value from the one before.",
    )
    position_rows: int = Field(
        50, ge=0, description="Texts of the longest length whose loss is taken at every position; 0 leaves this out."
    )
    smoothing: int | None = Field(
        None, gt=0, description="Positions that are averaged in the plot; null is a 64th of the length."
    )
    generate: bool = Field(
        True, description="Whether the model writes first sentences, for ROUGE-L, and variables, for their recall."
    )
    seed: int = Field(0, ge=0, description="Of the samples: the same for every model, whatever the run's seed.")

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        if any(not 0 <= depth <= 1 for depth in self.depths):
            raise ValueError("`depths` are shares of the text, from 0 to 1")
        if any(length < 64 for length in self.lengths or ()):
            raise ValueError("`lengths` hold a text, an instruction and an answer: at least 64 tokens")
        if self.keys == self.multi_keys == 0 and self.depths != _DEPTHS:
            raise ValueError("`depths` have no effect without `keys` or `multi_keys`")
        if self.tracked == 0 and self.hops != _HOPS:
            raise ValueError("`hops` have no effect without `tracked`")
        if self.position_rows == 0 and self.smoothing is not None:
            raise ValueError("`smoothing` has no effect without `position_rows`")
        return self

    def planned(self, texts: Sequence[str], tokenizer: Any) -> dict[str, str]:
        """The passes that it takes."""
        lengths = len(self.lengths or range(4))
        several = self.multi_keys * len(self.depths) * (len(self.depths) > 1)
        chains = 2 * self.tracked * len(self.hops)
        prompts = lengths * (min(self.samples, len(texts)) + self.keys * len(self.depths) + several + chains)
        return {self.name: f"at most {prompts:,} prompts of {lengths} lengths, {self.position_rows} texts by position"}

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.context.scoring import context_scores

        return context_scores(self, subject)
