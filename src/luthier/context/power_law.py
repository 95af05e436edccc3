"""Loss as a power law of the context length: L(c) = (alpha / c)^beta + gamma.

Equation 1 of “Effective Long-Context Scaling of Foundation Models” (Xiong et al., NAACL 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_START, _LOW, _HIGH = (3.0, 0.5, 1.5), (-20.0, 1e-3, 0.0), (30.0, 5.0, 50.0)
LEAST_POINTS = 8
_AT_BOUND = 1e-3


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law.

    Attributes:
        alpha, beta, gamma: of it, in tokens, without a unit, and in nats.
        intervals: 95 % intervals of the three; None where there was one curve alone.
        residual: root of the mean squared difference from the losses, in nats.
        at_bound: whether a parameter stands at the end of what it may be, so that the losses follow no such law.
    """

    alpha: float
    beta: float
    gamma: float
    intervals: dict[str, tuple[float, float]] | None
    residual: float
    at_bound: bool

    def __call__(self, contexts: Any) -> Numbers:
        """L(c)."""
        return np.asarray((self.alpha / np.asarray(contexts, dtype=np.float64)) ** self.beta + self.gamma)

    @property
    def doubling(self) -> float:
        """2^-beta, the factor on L - gamma when the context is doubled."""
        return float(2.0**-self.beta)


def fit_power_law(contexts: Any, losses: Any, *, draws: int = 200, seed: int = 0) -> PowerLaw:
    """Bounded least squares in ln alpha, beta and gamma.

    Args:
        contexts: (C,) context lengths in tokens, evenly spaced by their logarithm; at least 8, better 16.
        losses: (C,), or (N, C) of N texts: intervals are then those of a bootstrap over texts.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: there are too few points, or shapes differ.
    """
    c, y = np.asarray(contexts, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if len(c) < LEAST_POINTS or y.shape[-1] != len(c) or c.min() <= 0:
        raise ValueError(f"a power law needs at least {LEAST_POINTS} context lengths above 0, and as many losses")
    mean = y if y.ndim == 1 else y.mean(axis=0)
    best = _fitted(c, mean, np.array(_START))
    law = PowerLaw(*_natural(best), None, 0.0, _is_at_bound(best))
    residual = float(np.sqrt(np.mean((law(c) - mean) ** 2)))
    intervals = None
    if y.ndim == 2 and len(y) > 1:
        rng = np.random.default_rng(seed)
        drawn = np.array(
            [_natural(_fitted(c, y[rng.integers(0, len(y), len(y))].mean(axis=0), best)) for _ in range(draws)]
        )
        ends = np.percentile(drawn, [2.5, 97.5], axis=0)
        intervals = {n: (float(ends[0, i]), float(ends[1, i])) for i, n in enumerate(("alpha", "beta", "gamma"))}
    return PowerLaw(law.alpha, law.beta, law.gamma, intervals, residual, law.at_bound)


def _fitted(c: Numbers, y: Numbers, start: Numbers) -> Numbers:
    from scipy.optimize import least_squares

    logs = np.log(c)

    def residuals(p: Numbers) -> Numbers:
        return np.asarray(np.exp(np.clip(p[1] * (p[0] - logs), -50, 50)) + p[2] - y)

    inside = np.clip(start, np.array(_LOW) + 1e-6, np.array(_HIGH) - 1e-6)
    found: Numbers = least_squares(residuals, inside, bounds=(_LOW, _HIGH), max_nfev=500).x
    return found


def _natural(p: Numbers) -> tuple[float, float, float]:
    return float(np.exp(p[0])), float(p[1]), float(p[2])


def _is_at_bound(p: Numbers) -> bool:
    low, high = np.array(_LOW), np.array(_HIGH)
    return bool(((p - low < _AT_BOUND * (high - low)) | (high - p < _AT_BOUND * (high - low)))[:2].any())
