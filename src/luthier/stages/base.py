"""What a stage is: it takes a model and gives a model, both as paths to saved artefacts.

Nothing here imports torch; a stage imports it inside `run` and `plan`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.report.sections import plain_sections
from luthier.settings import Paper, Settings

if TYPE_CHECKING:
    from luthier.models.settings import ModelSettings

Kind = Literal["pretrained", "task", "encoder"]


@dataclass(frozen=True)
class StageInputs:
    """What a stage starts from.

    Attributes:
        model: the model to start from: what the recipe names, or the artefact of the stage before.
        kind: `pretrained` (no head of a task), `task` (a model with the head of a task), `encoder`.
        seed: of the run.
        data: settings of the data the stage before was run on, for stages that default to it.
        key: of the stage (`luthier.runs.runner.stage_key`); empty in a dry run. What a stopped run left behind under
            another key belongs to other settings.
    """

    model: ModelSettings
    kind: Kind
    seed: int
    data: Any = None
    key: str = ""


@dataclass
class StageOutputs:
    """What a stage leaves behind.

    Attributes:
        model: folder of the model it made, or None when the model is the one it was given.
        metrics: content of `metrics.json`, see `metrics_record`.
    """

    metrics: dict[str, Any]
    model: Path | None = None


@dataclass(frozen=True)
class StagePlan:
    """What a dry run tells about a stage.

    Attributes:
        facts: label -> value, in the order they are shown.
        seconds: estimate of the run time, or None where nothing can be said.
        memory_bytes: estimate of the peak memory, or None.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    memory_bytes: int | None = None


class Stage(Settings):
    """Settings of one stage of a recipe, and how to run it. Registered with `@STAGES.register`."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    takes: ClassVar[tuple[Kind, ...]] = ("pretrained", "task")
    gives: ClassVar[Kind | None] = None
    # Whether its log tells the validation score of the model step by step, so that a search can end it early.
    scores_by_step: ClassVar[bool] = False
    # "module:function", imported when the stage runs: `runs(stage, inputs, folder)` and `plans(stage, inputs)`.
    runs: ClassVar[str] = ""
    plans: ClassVar[str] = ""

    @classmethod
    def resolved(cls) -> type[Stage]:
        """The class with every registered part in its unions; called after discovery."""
        return cls

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        """Fingerprints of everything the stage reads beside the model, for its key."""
        return {}

    def check(self, inputs: StageInputs) -> None:
        """Find what is wrong with the stage's own data before any stage runs; the model may not be there yet.

        Raises:
            DataError, RecipeError: what `run` would raise.
        """

    def plan(self, inputs: StageInputs) -> StagePlan:
        """The dry run."""
        plan: StagePlan = _named(self.plans)(self, inputs) if self.plans else StagePlan()
        return plan

    def run(self, inputs: StageInputs, folder: Path) -> StageOutputs:
        """Do the work inside `folder`, which may hold what an earlier, stopped call left there."""
        if not self.runs:
            raise TypeError(f"{type(self).__name__} names nothing that runs it")
        outputs: StageOutputs = _named(self.runs)(self, inputs, folder)
        return outputs


def _named(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def metrics_record(
    stage: str,
    *,
    scores: Mapping[str, float] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    primary: str | None = None,
    cost: Mapping[str, float] | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a stage's `metrics.json`.

    Args:
        stage: its name.
        scores: `split/metric` -> value, as fractions or natural units.
        intervals: 95 % intervals for some of the scores.
        primary: the score a table shows first.
        cost: trainable_parameters, total_parameters, bytes_on_disk, seconds, peak_memory_bytes, tokens_per_second.
        details: anything more, in JSON's types; `sections` in it may hold a `luthier.report.Section`.
    """
    return {
        "stage": stage,
        "scores": dict(scores or {}),
        "intervals": {k: list(v) for k, v in (intervals or {}).items()},
        "primary": primary,
        "cost": dict(cost or {}),
        "details": plain_sections(details or {}),
    }
