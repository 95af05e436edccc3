"""The table of stages that every check in `test_every_stage.py` runs through: a new stage adds one row.

Models and data are tiny, so that a whole run takes about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Block = dict[str, Any]
STEPS = {"max_steps": 4, "batch_size": 8, "evaluate_every": 2, "checkpoint_every": 1}


@dataclass(frozen=True)
class Sources:
    """Data blocks that a row's stages may use.

    Attributes:
        labelled: texts with a class each.
        text: plain text.
    """

    labelled: Block
    text: Block


def nothing(_sources: Sources) -> list[Block]:
    return []


@dataclass(frozen=True)
class Case:
    """One row: a stage, and what holds for it.

    Attributes:
        name: of the row.
        stage: as recipes call it.
        settings: of the stage, from the data.
        gives: artefacts by name -> kind.
        before: stages that it can follow.
        after: a stage that takes what it gives; None where no stage does, and the next one is refused.
        change: settings that make it run again.
        on: which base model: `encoder` or `decoder`.
        answers: what an answer of `luthier predict` holds, or what is said where the stage gives nothing to ask.
    """

    name: str
    stage: str
    settings: Callable[[Sources], Block]
    gives: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[Sources], list[Block]] = nothing
    after: Callable[[Sources], Block] | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    on: str = "encoder"
    answers: str = "label"

    def __str__(self) -> str:
        return self.name

    def block(self, sources: Sources, **changes: Any) -> Block:
        """The stage as a recipe has it."""
        return {self.stage: {**self.settings(sources), **changes}}


def tuned(method: str, data: str = "labelled", **more: Any) -> Callable[[Sources], Block]:
    """Settings of a tune stage."""
    return lambda sources: {"method": method, "data": getattr(sources, data), **STEPS, "learning_rate": 5e-3, **more}


def judged(*suites: str, **more: Any) -> Callable[[Sources], Block]:
    """An evaluate stage."""
    return lambda sources: {"evaluate": {"suites": list(suites), **more}}


def represented(sources: Sources) -> Block:
    train = {key: value for key, value in sources.labelled.items() if key != "test"}
    heads = {key: value for key, value in sources.labelled.items() if key != "validation"}
    return {
        "tasks": {"films": {"data": train}},
        "heads": {"mood": {"data": heads, "l2": 1.0}},
        "prefix": {"prefix_length": 2},
        "pooling": "mean",
        **STEPS,
    }


CASES = [
    Case(
        "tune-task",
        "tune",
        tuned("full"),
        gives={"model": "task"},
        after=judged("task"),
        change={"learning_rate": 1e-3},
    ),
    Case(
        "tune-language",
        "tune",
        tuned("lora", "text"),
        gives={"model": "pretrained"},
        after=lambda sources: {"evaluate": {"suites": ["perplexity"], "data": sources.text}},
        change={"max_steps": 2},
        on="decoder",
        answers="response",
    ),
    Case(
        "tune-adapter-on",
        "tune",
        tuned("lora", continue_adapter=True),
        gives={"model": "task"},
        before=lambda sources: [{"tune": tuned("lora")(sources)}],
        after=judged("task"),
        change={"max_steps": 2},
    ),
    Case(
        "evaluate",
        "evaluate",
        lambda sources: {"suites": ["task", "calibration"], "data": sources.labelled},
        before=lambda sources: [{"tune": tuned("head_only")(sources)}],
        after=lambda sources: {"tune": tuned("bitfit")(sources)},
        change={"split": "validation"},
    ),
    Case(
        "represent",
        "represent",
        represented,
        gives={"model": "encoder"},
        before=lambda sources: [{"tune": tuned("bitfit")(sources)}],
        change={"normalise": True},
        answers="heads",
    ),
]
