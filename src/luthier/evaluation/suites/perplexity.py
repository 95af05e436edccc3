"""How well a language model predicts text."""

from __future__ import annotations

from typing import ClassVar, Literal

from luthier.data.schemas import LabelKind
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES
from luthier.report.intervals import DRAWS


@SUITES.register
class PerplexitySuite(Suite):
    """exp of the mean negative log-likelihood per scored token."""

    name: Literal["perplexity"] = "perplexity"
    summary: ClassVar[str] = "perplexity per scored token, with a bootstrap interval over rows"
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = (None,)

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.evaluation.scoring import draws_intervals, scored_details, task_draws, task_scores

        arguments = (subject.predictions, subject.task, subject.split, subject.rows)
        drawn = task_draws(*arguments, draws=DRAWS)
        return SuiteResult(
            scores=task_scores(*arguments),
            intervals=draws_intervals(drawn),
            details={
                "scored_tokens": int(subject.predictions.items.sum()),
                **scored_details(subject.task, subject.split, drawn),
            },
        )
