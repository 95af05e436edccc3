"""Numbers that change while a run goes on: weights of edges and of hard losses, and temperatures.

Source: Lee et al., Findings of ACL 2023, sections 2 and 4.2; `inherit` is the schedule of knowledge inheritance (Qin et
al., NAACL 2022).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from luthier.settings import Settings

Kind = Literal["constant", "linear", "cosine", "exponential", "step", "inherit"]


class Schedule(Settings):
    """A number over the optimiser steps of a run. A plain number is short for `{start: NUMBER}`."""

    kind: Kind = Field(
        "constant",
        description="How it goes from `start` to `end`: `linear`, `cosine` (slow at both ends), `exponential` (by a "
        "factor), or at once with `step`. `constant` stays at `start`. `inherit` is for the weight of an edge: it "
        "falls from 1 to 0, and the learner's own loss counts for what is left of 1.",
    )
    start: float = Field(1.0, ge=0, description="Its value at the first step.")
    end: float | None = Field(None, ge=0, description="Its value from `until` on.")
    until: float = Field(1.0, gt=0, le=1, description="Share of the run after which it stays at `end`.")

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"start": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _fields_have_effect(self) -> Self:
        given = self.changed("start", "end")
        if self.kind == "inherit" and given:
            raise ValueError(f"an inherited weight falls from 1 to 0: leave {' and '.join(given)} out")
        if self.kind == "constant" and (self.end is not None or self.until != 1):
            raise ValueError("a constant stays at `start`: leave `end` and `until` out, or give another `kind`")
        if self.kind not in ("constant", "inherit") and self.end is None:
            raise ValueError(f"give `end`, where the {self.kind} schedule goes")
        if self.kind == "exponential" and min(self.start, self.end or 0) <= 0:
            raise ValueError("an exponential schedule goes by a factor: start and end have to be above 0")
        if self.kind == "step" and self.until == 1:
            raise ValueError("a step at the end of the run changes nothing: give `until`, a share of the run below 1")
        return self

    def at(self, done: float) -> float:
        """The value when a share of the run is done.

        Args:
            done: from 0 to 1; the steps taken over those of the run.
        """
        passed = min(1.0, done / self.until)
        start, end = (
            (1.0, 0.0) if self.kind == "inherit" else (self.start, self.start if self.end is None else self.end)
        )
        if self.kind == "step":
            return start if passed < 1 else end
        if self.kind == "exponential":
            return start * (end / start) ** passed
        if self.kind == "cosine":
            return end + (start - end) * (1 + math.cos(math.pi * passed)) / 2
        return start + (end - start) * passed

    @property
    def least(self) -> float:
        """The smallest value that it takes."""
        return min(self.at(0.0), self.at(1.0))

    @property
    def changes(self) -> bool:
        """Whether it takes more than one value."""
        return self.at(0.0) != self.at(1.0)


def _written(schedule: Schedule) -> Any:
    return schedule.start if schedule.kind == "constant" else schedule.model_dump(exclude_defaults=True)


# A recipe's field with a schedule: a number, or a mapping.
Scheduled = Annotated[
    Schedule,
    BeforeValidator(lambda value: value, json_schema_input_type=float | Schedule),
    PlainSerializer(_written),
]


def share_done(trainer: Any) -> float:
    """The share of a run that is done: of its optimiser steps, or of its time where that ends it.

    All processes of a run ask together.
    """
    done: float = trainer.state.global_step / max(1, trainer.state.max_steps)
    return max(done, float(trainer.time_used))
