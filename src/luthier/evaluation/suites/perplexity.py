"""How well a language model predicts text."""

from __future__ import annotations

from typing import ClassVar, Literal

from luthier.data.schemas import LabelKind
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES


@SUITES.register
class PerplexitySuite(Suite):
    """exp of the mean negative log-likelihood per scored token."""

    name: Literal["perplexity"] = "perplexity"
    summary: ClassVar[str] = "perplexity per scored token, with a bootstrap interval over rows"
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = (None,)

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.evaluation.scoring import scored_details

        found = subject.result()
        return SuiteResult(
            scores=found.scores,
            intervals=found.intervals,
            baselines=found.baselines,
            marks=found.marks,
            about=found.about,
            details={
                "scored_tokens": int(subject.predictions.items.sum()),
                **scored_details(subject.task, subject.split, found),
            },
        )
