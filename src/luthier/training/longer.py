"""Whether a training ended while it still got better, as small data make it under the usual number of epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.evaluation.baselines import NOT_BETTER
from luthier.metric_names import higher_is_better, range_of

if TYPE_CHECKING:
    from luthier.training.settings import TrainingSettings

# A validation loss that falls by less than this share of itself between two evaluations has come to rest.
LEAST_FALL = 0.01
_LOSS = "validation/loss"


def too_short(
    settings: TrainingSettings, records: Sequence[Mapping[str, Any]], primary: str, marks: Sequence[str] = ()
) -> str:
    """The advice to train longer, in words.

    Args:
        settings: what the training ran under.
        records: its log; of several evaluations at one step the last counts.
        primary: the score that the best weights are chosen by.
        marks: of the trained model; of one that is no better than the trivial baseline any fall of the loss counts.

    Returns:
        Empty where the last evaluation was not the best one, where the score can't get better, or where the validation
        loss did not fall by `LEAST_FALL` at each of the last two evaluations that have one before them.
    """
    by_step: list[Mapping[str, Any]] = []
    for record in reversed(records):  # what went before the steps of this training is another's, or was done again
        if record.get("event") != "evaluate" or not all(map(_is_finite, (record.get(primary), record.get(_LOSS)))):
            continue
        if not by_step or record["step"] < by_step[-1]["step"]:
            by_step.append(record)
    by_step.reverse()
    if len(by_step) < 2:
        return ""
    scores, losses = [r[primary] for r in by_step], [r[_LOSS] for r in by_step[-3:]]
    higher = higher_is_better(primary)
    best, end = (max(scores), range_of(primary)[1]) if higher else (min(scores), range_of(primary)[0])
    least = 0.0 if _not_better(marks) else LEAST_FALL
    falls = all(after < (1 - least) * before for before, after in itertools.pairwise(losses))
    if scores[-1] != best or scores[-1] == end or not falls:
        return ""
    rose = scores[-1] != scores[-2] and primary != _LOSS
    moved = ("the score was still rising" if higher else "the score was still falling") if rose else ""
    moved = moved or "the validation loss was still falling"
    last = by_step[-1]["step"]
    return f"{moved} at the last step, {last}: train longer, e.g. `{_longer(settings, last)}`"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _longer(settings: TrainingSettings, last: int) -> str:
    """The setting that ended the training at its last step, doubled."""
    by_time = settings.max_minutes and (not settings.max_steps or last < settings.max_steps)
    name = "max_minutes" if by_time else "max_steps" if settings.max_steps else "epochs"
    return f"{name}: {2 * getattr(settings, name):g}"


def with_advice(marks: Sequence[str], advice: str) -> list[str]:
    """The marks of a trained model with the advice behind them, as what may explain one that is no better than the
    trivial baseline."""
    if not advice:
        return list(marks)
    return [*marks, f"it may be trained too little: {advice}" if _not_better(marks) else advice]


def _not_better(marks: Sequence[str]) -> bool:
    return any(mark.startswith(NOT_BETTER) for mark in marks)
