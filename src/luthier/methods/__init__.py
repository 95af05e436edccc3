"""The contract of a tuning method, and what methods share."""

from __future__ import annotations

from luthier.methods.base import MethodContext, TuningMethod

__all__ = ["MethodContext", "TuningMethod"]
