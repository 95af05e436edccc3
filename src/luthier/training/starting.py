"""Where a new head starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def start_at_mean(model: nn.Module, prior: Mapping[str, Any]) -> None:
    """Set the bias of a new head with one output to the mean of the training labels.

    The best constant is then where training starts, and what is learned is the distance to it: a bias that starts at 0
    goes up by about the learning rate a step, which for scores between 0 and 5 takes thousands of steps. The loss, its
    scale and the labels stay as they are. A head that was there before, and one without a bias, are left alone.

    Args:
        model: as `luthier.models.artifacts.load_model` gave it.
        prior: of a task with numbers (`luthier.tasks.running.priors`); any other changes nothing.
    """
    if "mean" not in prior:
        return
    new = set(getattr(model, "luthier_new_parameters", ()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in new and name.endswith("bias") and parameter.shape == (1,):
                parameter.fill_(float(prior["mean"]))
