"""The learning rate over the share of a training run that is done."""

from __future__ import annotations

import math


def share_of_rate(kind: str, warmup: float, done: float) -> float:
    """The share of the peak rate that applies: it rises from 0 during warm-up, and falls to 0 at the end.

    Args:
        kind: linear, cosine or constant_with_warmup; the last stays at the peak.
        warmup: share of the run over which the rate rises.
        done: share of the run that is done.
    """
    done = min(done, 1.0)
    if done < warmup:
        return done / warmup
    left = (1 - done) / (1 - warmup)
    if kind == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * left)
    return left if kind == "linear" else 1.0
