"""One temperature for a classifier's logits (Guo et al., ICML 2017)."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import nn

from luthier.errors import TrainingError
from luthier.objectives.scope import base_and_trunk

logger = logging.getLogger(__name__)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean of -log softmax(z / T)[label], in nats; logits (N, C), labels (N,)."""
    from scipy.special import log_softmax

    log_p = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-log_p[np.arange(len(labels)), np.asarray(labels, int)].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray, *, low: float = 0.05, high: float = 20.0) -> float:
    """The temperature with the least negative log-likelihood.

    The likelihood has one optimum in 1 / T; it is searched for on a log scale between `low` and `high`.

    Args:
        logits: (N, C).
        labels: (N,).

    Raises:
        ValueError: there are no rows, or fewer than two classes.
    """
    from scipy.optimize import minimize_scalar

    if len(labels) == 0 or np.ndim(logits) != 2 or np.shape(logits)[1] < 2:
        raise ValueError("a temperature is fitted to (N, C) logits with N >= 1 and C >= 2")
    found = minimize_scalar(
        lambda x: negative_log_likelihood(logits, labels, float(np.exp(x))),
        bounds=(np.log(low), np.log(high)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    temperature = float(np.exp(found.x))
    if bool((np.argmax(logits, axis=1) == np.asarray(labels, int)).all()):
        logger.warning(
            "all %d validation rows are predicted right, so the likelihood only grows as the temperature falls: "
            "%.3g is where the search stopped; more rows, or harder ones, are needed",
            len(labels),
            temperature,
        )
    return temperature


def fold_temperature(model: nn.Module, temperature: float) -> None:
    """Divide the head's last linear layer by the temperature, so that the saved model needs no extra code.

    Raises:
        TrainingError: the last layer of the head is not linear.
    """
    layer = _last_linear(model)
    with torch.no_grad():
        layer.weight.div_(temperature)
        if layer.bias is not None:
            layer.bias.div_(temperature)


def _last_linear(model: Any) -> nn.Linear:
    base, trunk = base_and_trunk(model)
    in_trunk = {id(m) for m in trunk.modules()}
    classes = base.config.num_labels
    found = [
        (name, m)
        for name, m in base.named_modules()
        if isinstance(m, nn.Linear)
        and id(m) not in in_trunk
        and m.out_features == classes
        and "original_module" not in name
    ]
    if not found:
        raise TrainingError(
            f"the head of {type(base).__name__} does not end in a linear layer, so a temperature can't be "
            f"folded into it",
            fix="use another objective",
        )
    return found[-1][1]
