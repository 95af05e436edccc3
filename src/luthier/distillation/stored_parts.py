"""Edges whose teacher is not there: its outputs were stored."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from luthier.distillation.divergences import divergence_from_stored
from luthier.distillation.edge import Edge
from luthier.distillation.parts import SoftLoss
from luthier.distillation.store import StoredTeacher
from luthier.objectives.step import Step


class StoredSoftLoss(SoftLoss):
    """What a model of a task learns from stored outputs of a teacher.

    Args:
        stored: of the teacher.
        edge, places: as of `SoftLoss`.
    """

    def __init__(self, stored: StoredTeacher, edge: Edge, places: Mapping[str, str]) -> None:
        super().__init__(edge, {**places, edge.teacher: ""})
        self.stored = stored

    def value(self, step: Step) -> Tensor:
        learner = self._rows(step, self.student)
        total = divergence_from_stored(
            learner,
            self.stored.rows(dict(step.batch), learner.device),
            temperature=self.temperature,
            direction=self.edge.kl_direction,
        )
        return self.scaled(step, total, len(step.of(self.student).rows))
