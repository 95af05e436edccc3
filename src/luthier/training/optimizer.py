"""The optimiser of every training."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainingArguments

from luthier.errors import TrainingError
from luthier.training.row_adamw import RowAdamW
from luthier.training.row_gradient import collects_by_rows

# Where torch has a fused AdamW.
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


class UncorrectedAdamW(torch.optim.AdamW):
    """AdamW without bias correction: w -= rate * (m / (sqrt(v) + eps) + decay * w).

    torch's step divides m by 1 - b1^t and v by 1 - b2^t; the rate and eps that it is given undo that.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        given = [(group["lr"], group["eps"], group["weight_decay"]) for group in self.param_groups]
        for group, (rate, eps, decay) in zip(self.param_groups, given, strict=True):
            taken = max((float(self.state[p]["step"]) for p in group["params"] if self.state.get(p)), default=0.0) + 1
            first, second = group["betas"]
            root = math.sqrt(1 - second**taken)
            factor = (1 - first**taken) / root
            group["lr"], group["eps"], group["weight_decay"] = rate * factor, eps / root, decay / factor
        try:
            return super().step(closure)
        finally:
            for group, (rate, eps, decay) in zip(self.param_groups, given, strict=True):
                group["lr"], group["eps"], group["weight_decay"] = rate, eps, decay


def adamw(
    groups: list[dict[str, Any]], args: TrainingArguments, *, scaled: bool, correct_bias: bool = True
) -> torch.optim.AdamW:
    """AdamW over groups of parameters, those without any left out; one that updates rows late where a parameter's
    gradient is collected by rows.

    Args:
        groups: each with its learning rate and weight decay.
        args: the rate of a group that has none, betas, epsilon.
        correct_bias: whether the averages are divided by what they lack in the first steps.
        scaled: whether a loss scaler skips steps; a fused update would hide that from it.

    Raises:
        TrainingError: there are no parameters.
    """
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TrainingError("nothing is trainable", fix="choose a method that trains something, or train the head")
    parameters = [p for group in groups for p in group["params"]]
    fused = not scaled and all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in parameters)
    made = RowAdamW if collects_by_rows(parameters) else torch.optim.AdamW if correct_bias else UncorrectedAdamW
    return made(
        groups,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        fused=fused or None,
    )
