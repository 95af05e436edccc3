"""Edges whose teacher is not there: its outputs were stored."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from luthier.distillation.divergence import divergence_from_stored
from luthier.distillation.edge import Edge
from luthier.distillation.language import Passes
from luthier.distillation.parts import SoftLoss
from luthier.distillation.store import StoredTeacher
from luthier.language_modeling.rows import PredictionRows
from luthier.objectives.step import Step


class StoredSoftLoss(SoftLoss):
    """What a model learns from stored outputs of a teacher.

    Args:
        stored: of the teacher.
        edge, places: as of `SoftLoss`.
        passes: of language models that learn text; None for a task.
    """

    def __init__(
        self, stored: StoredTeacher, edge: Edge, places: Mapping[str, str], passes: Passes | None = None
    ) -> None:
        super().__init__(edge, {**places, edge.teacher: ""})
        self.stored, self.passes = stored, passes

    def value(self, step: Step) -> Tensor:
        learner = self._learner(step)
        device = learner.device if isinstance(learner, Tensor) else learner.hidden.device
        total = divergence_from_stored(
            learner,
            self.stored.rows(dict(step.inputs), device),
            temperature=self.temperature,
            direction=self.edge.kl_direction,
            dtype=None if self.passes is None else self.passes.dtype,
        )
        if self.passes is None:
            return self.scaled(step, total, len(step.of(self.student).rows))
        return self.scaled(step, total, len(self.passes.of(step, self.student).those_with_labels().targets))

    def _learner(self, step: Step) -> Tensor | PredictionRows:
        if self.passes is None:
            return self._rows(step, self.student)
        found = self.passes.of(step, self.student)
        return found.rows if self.edge.positions == "non_pad" else found.those_with_labels()
