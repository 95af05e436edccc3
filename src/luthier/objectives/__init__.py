"""The contract of a training objective: parts that a trainer calls, and the step that they see."""

from __future__ import annotations

from luthier.objectives.base import Objective

__all__ = ["Objective"]
