"""Registers the training objectives and the evaluation suite of this room."""

from __future__ import annotations

from luthier.robustness import baselines, settings, suite

__all__ = ["baselines", "settings", "suite"]
