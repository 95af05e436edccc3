"""The suite `long_answers`: what a model writes when it is asked about long documents."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from luthier.data.schemas import LabelKind
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES


@SUITES.register
class LongAnswersSuite(Suite):
    """Answers and summaries of long documents, written greedily and scored against those in the data.

    A prompt that is longer than the model takes is cut where it does least harm: with a chat template in its middle, so
    that its instruction and its question stay, and else at its start, so that the question at its end stays.
    """

    name: Literal["long_answers"] = "long_answers"
    summary: ClassVar[str] = "answers to questions about long documents, by the words that they share with the data's"
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = (None,)
    language_heads: ClassVar[tuple[str, ...] | None] = ("causal_lm",)

    rows: int | None = Field(None, gt=0, description="Rows that are asked, drawn by `seed`; null asks all.")
    length: int | None = Field(
        None, ge=64, description="Tokens of prompt and answer together; null is what the model was trained on."
    )
    tokens: int = Field(128, gt=0, description="Tokens that an answer has at most.")
    first_line: bool = Field(
        True, description="Whether an answer ends with its first line, as that of a base model that goes on does."
    )
    samples: int = Field(5, ge=0, description="Answers that the page shows.")
    seed: int = Field(0, ge=0, description="Of which rows: the same for every model, whatever the run's seed.")

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.context.long_answering import long_answer_scores

        return long_answer_scores(self, subject)
