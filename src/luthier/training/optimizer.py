"""The optimiser of every training."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments

from luthier.errors import TrainingError

# Where torch has a fused AdamW.
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def adamw(groups: list[dict[str, Any]], args: TrainingArguments, *, scaled: bool) -> torch.optim.AdamW:
    """AdamW over groups of parameters, those without any left out.

    Args:
        groups: each with its learning rate and weight decay.
        args: the rate of a group that has none, betas, epsilon.
        scaled: whether a loss scaler skips steps; a fused update would hide that from it.

    Raises:
        TrainingError: there are no parameters.
    """
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TrainingError("nothing is trainable", fix="choose a method that trains something, or train the head")
    parameters = [p for group in groups for p in group["params"]]
    fused = not scaled and all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(
        groups,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        fused=fused or None,
    )
