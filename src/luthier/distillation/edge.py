"""An edge of the graph: one model learns from another. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, model_validator

from luthier.distillation.schedules import Schedule, Scheduled
from luthier.settings import Settings


class Edge(Settings):
    """One model learns the distributions of another.

    Its term is weight * S, with S the divergence summed over positions and divided by the labelled items of the whole
    optimiser step, as the learner's own loss is (Lee et al., Findings of ACL 2023, equations 2 and 3).
    """

    teacher: str = Field(description="The node that is learned from.")
    student: str = Field(description="The node that learns; it has to be trained.")
    weight: Scheduled = Field(
        default_factory=Schedule, description="Factor of the term: a number, or a schedule over the run."
    )
    temperature: Scheduled = Field(
        default_factory=Schedule, description="What both models' logits are divided by: a number, or a schedule."
    )
    scale_by_t2: bool = Field(
        False,
        description="Whether the term is multiplied by the squared temperature, so that gradients keep their size.",
    )
    kl_direction: Literal["forward", "reverse", "jsd"] = Field(
        "forward",
        description="`forward` is KL(teacher || student), `reverse` KL(student || teacher), `jsd` the Jensen-Shannon "
        "divergence between them.",
    )
    positions: Literal["masked", "non_pad"] = Field(
        "masked",
        description="Of language models and token labels: `masked` compares where there is a label, `non_pad` at every "
        "token. The sum is divided by the number of labels in either case.",
    )
    stop_gradient: bool = Field(
        True, description="Whether the teacher is a constant; false also moves a trained teacher towards the student."
    )
    start_step: int = Field(0, ge=0, description="Optimiser steps before the edge begins.")
    teacher_stop_step: int | None = Field(
        None, gt=0, description="Optimiser step from which on the edge is gone; null keeps it to the end."
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.teacher == self.student:
            raise ValueError(f"{self.teacher} can't learn from itself: name two nodes")
        if self.temperature.kind == "inherit":
            raise ValueError("`inherit` is a schedule of weights: give the temperature another kind")
        if self.temperature.least <= 0:
            raise ValueError("a temperature has to be above 0")
        if self.scale_by_t2 and not self.temperature.changes and self.temperature.start == 1:
            raise ValueError("scale_by_t2 has no effect at temperature 1: leave it out, or give another temperature")
        if self.teacher_stop_step is not None and self.teacher_stop_step <= self.start_step:
            raise ValueError("teacher_stop_step is not behind start_step, so the edge would never be there")
        if max(self.weight.at(0.0), self.weight.at(1.0)) == 0:
            raise ValueError("the edge has weight 0: leave it out")
        return self

    @property
    def name(self) -> str:
        """What logs, checkpoints and the report call it."""
        return f"{self.teacher} to {self.student}"

    def weight_at(self, step: int, done: float) -> float:
        """Its weight in the step that follows `step` finished ones.

        Args:
            step: optimiser steps taken.
            done: share of the run that is done.
        """
        there = self.start_step <= step and (self.teacher_stop_step is None or step < self.teacher_stop_step)
        return self.weight.at(done) if there else 0.0


def never_begun(edges: Iterable[Edge], steps: float) -> str | None:
    """What is wrong with the first edge that would begin only when a run of so many optimiser steps is over."""
    late = next((edge for edge in edges if edge.start_step >= steps), None)
    if late is None:
        return None
    return f"the edge {late.name} begins behind {late.start_step:,} steps, and the run takes {steps:,}"
