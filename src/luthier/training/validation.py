"""How a model is scored while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        scores: by name.
        details: what else is to be known of the weights that were scored, as JSON can hold it.
    """

    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """Evaluations, and which of their scores tells the best weights.

    Attributes:
        evaluate: scores a model.
        primary: name of that score.
        higher_is_better: whether more of it is better.
    """

    evaluate: Callable[[nn.Module], Evaluation]
    primary: str
    higher_is_better: bool
