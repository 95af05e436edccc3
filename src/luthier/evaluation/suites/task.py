"""The metrics of the task itself."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES


@SUITES.register
class TaskSuite(Suite):
    """Scores the model by its task's own metrics."""

    name: Literal["task"] = "task"
    summary: ClassVar[str] = "the task's own metrics (GLUE, SuperGLUE, seqeval, SQuAD), with bootstrap intervals"

    draws: int = Field(1000, ge=100, description="Bootstrap draws behind each interval.")

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.evaluation.breakdown import sections_of
        from luthier.evaluation.scoring import scored_details
        from luthier.tasks.base import task_of

        found = subject.result(draws=self.draws)
        judged = subject.predictions, subject.task, subject.split, subject.rows
        own = task_of(subject.task).sections(*judged, getattr(subject.model, "config", None))
        return SuiteResult(
            scores=found.scores,
            intervals=found.intervals,
            baselines=found.baselines,
            marks=found.marks,
            about=found.about,
            sections=sections_of(*judged) if own is None else own,
            details={
                "rows": len(subject.task.splits[subject.split]),
                **scored_details(subject.task, subject.split, found),
            },
        )
