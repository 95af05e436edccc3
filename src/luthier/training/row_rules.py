"""Which trainings can update rows of a matrix late; told without torch."""

from __future__ import annotations

import math

from luthier.training.settings import TrainingSettings

# Slowest fall, a step, of what a gradient still moves; a slower one would have to be followed for thousands of steps.
_SLOWEST = 0.99


def refused_betas(first: float, second: float) -> str | None:
    """Why rows can't be updated late under these betas of AdamW; None where they can."""
    if second > 0 and first < _SLOWEST * math.sqrt(second):
        return None
    return f"the first of `adam_betas` has to be below {_SLOWEST} times the root of the second"


def refused_settings(settings: TrainingSettings) -> str | None:
    """Why rows can't be updated late under these settings; None where they can."""
    if settings.precision == "float16":
        return "the loss scaler of `precision: float16` skips steps"
    if not settings.correct_bias:
        return "it is made for `correct_bias: true`"
    if settings.weight_decay * (settings.learning_rate or 0) >= 1:
        return "`weight_decay` times `learning_rate` has to be below 1"
    return refused_betas(*settings.adam_betas)
