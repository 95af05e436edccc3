"""What rounds of MART leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.models.settings import ModelSettings
from luthier.redteaming.seeds import Prompt

# What is measured: held-out attacks, ordinary prompts, and harmless prompts that look harmful.
HELD_OUT, HELPFUL, LOOK_ALIKES = "held-out", "helpful", "look-alikes"


@dataclass
class Round:
    """One finished round.

    Attributes:
        number: from 1.
        facts: counts and rates of it, in JSON's types.
        target, adversary: the models after it.
        attacks: the prompts that broke the target.
    """

    number: int
    facts: dict[str, Any]
    target: ModelSettings
    adversary: ModelSettings
    attacks: list[Prompt]


@dataclass
class MartResult:
    """What a loop leaves.

    Attributes:
        target: the last target.
        adversary: the last adversary.
        rounds: the finished ones.
        stopped: why there was no further round; empty where all were done.
        seeds: counts of seeds and held-out prompts.
        judges: what is known of the judges; see `luthier.redteaming.checks`.
        measured: number of a round -> what was measured after it, 0 before the first.
        folders: the same -> where its records are.
        final: of the last adversary's prompts, or None.
        transfer: number of a round -> number of a target -> [violations, scored], of the attacks of the round.
        trained: whether the target learned anything.
        marks: what must not be missed on top of every table.
    """

    target: ModelSettings
    adversary: ModelSettings
    rounds: list[Round] = field(default_factory=list)
    stopped: str = ""
    seeds: dict[str, Any] = field(default_factory=dict)
    judges: dict[str, Any] = field(default_factory=dict)
    measured: dict[int, dict[str, Any]] = field(default_factory=dict)
    folders: dict[int, Path] = field(default_factory=dict)
    final: dict[str, Any] | None = None
    transfer: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    trained: bool = False
    marks: list[str] = field(default_factory=list)
