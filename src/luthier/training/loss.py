"""The loss of every task, as a sum over items divided by the items of the whole optimiser step.

Dividing by the step's own count, not by each forward pass's, is what makes gradient accumulation change nothing.

Shapes: B examples, T tokens, C classes or choices, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100


def items_in(batch: dict[str, Any], schema: str, shifted: bool) -> int:
    """How many labelled items a batch holds: examples, tokens, or question-answer pairs.

    Args:
        batch: collated; `labels` (B,), (B, T), or `start_positions` (B,).
        schema: the task schema.
        shifted: whether position t predicts token t + 1, so that the first label of a row counts for nothing.
    """
    if schema == "extractive_qa":
        return len(batch["start_positions"])
    labels = batch["labels"]
    if labels.is_floating_point():
        return labels.numel()
    return int((labels[:, 1:] if shifted else labels).ne(IGNORED).sum())


def task_loss(logits: Any, batch: dict[str, Any], schema: str, *, shifted: bool, items: float) -> Tensor:
    """Loss of one forward pass, in float32.

    Args:
        logits: (B, C) for classification and choices, (B,) or (B, 1) for regression, (B, T, C) for token labels,
            (B, P + T, V) for language models with P prompt positions in front, a pair of (B, T) for answers.
        batch: holds `labels`, or `start_positions` and `end_positions`.
        schema: the task schema.
        shifted: as in `items_in`.
        items: what the sum is divided by.

    Returns:
        A scalar.
    """
    if schema == "extractive_qa":
        start, end = logits
        total = _sum_ce(start, batch["start_positions"]) + _sum_ce(end, batch["end_positions"])
        return total / (2 * items)
    labels = batch["labels"]
    if schema == "regression":
        return F.mse_loss(logits.float().reshape(-1), labels.float().reshape(-1), reduction="sum") / items
    if labels.ndim == 2:
        logits = logits[:, -labels.shape[1] :]
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return _sum_ce(logits, labels) / items


def _sum_ce(logits: Tensor, labels: Tensor) -> Tensor:
    flat = logits.float().reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, labels.reshape(-1).to(flat.device, torch.long), ignore_index=IGNORED, reduction="sum")
