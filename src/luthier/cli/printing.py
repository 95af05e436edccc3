"""Dry runs as text."""

from __future__ import annotations

from typing import Any

from luthier.runs.planning import PlannedStage


def print_plan(planned: list[PlannedStage], console: Any) -> None:
    """Show a dry run, one stage after another, and the totals."""
    seconds, memory = 0.0, 0
    for stage in planned:
        console.print(f"{stage.folder}  {_state(stage)}", style="bold", soft_wrap=True)
        if stage.problem:
            console.print(f"  can't run: {stage.problem}", markup=False)
        if stage.plan is None:
            continue
        for label, value in stage.plan.facts.items():
            console.print(f"  {label:20} {value}", markup=False, soft_wrap=True)
        seconds += stage.plan.seconds or 0
        memory = max(memory, stage.plan.memory_bytes or 0)
    if seconds or memory:
        console.print(
            f"estimate: {duration(seconds)} of training, {memory / 1e9:.1f} GB of memory at the highest "
            "(rough: within the factors that the stages name)"
        )
    console.print("nothing was trained or written; `luthier run` does it")


def _state(stage: PlannedStage) -> str:
    if stage.cached:
        return "done already"
    if stage.reached is None:
        return "to do"
    step, steps = stage.reached
    return f"continues at step {step:,}" + ("" if steps is None else f" of {steps:,}")


def duration(seconds: float) -> str:
    """Seconds in the unit people would say."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
