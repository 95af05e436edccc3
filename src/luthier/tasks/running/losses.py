"""Losses as sums over items, divided by the items of a whole optimiser step.

Dividing by the step's own count, not by each forward pass's, is what makes gradient accumulation change nothing.

Shapes: B examples, T tokens, C classes or choices, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.data.schemas import IGNORED


def labels_that_count(labels: Tensor, *, shifted: bool) -> int:
    """How many of (B,) or (B, T) labels are learned; the first of a row counts for nothing where position t predicts
    token t + 1."""
    if labels.is_floating_point():
        return labels.numel()
    return int((labels[:, 1:] if shifted else labels).ne(IGNORED).sum())


def label_loss(logits: Tensor, labels: Tensor, *, shifted: bool) -> Tensor:
    """Summed cross-entropy, in float32.

    Args:
        logits: (B, C), or (B, P + T, C) with P prompt positions in front.
        labels: (B,) or (B, T).
        shifted: whether position t predicts token t + 1.
    """
    if labels.ndim == 2:
        logits = logits[:, -labels.shape[1] :]
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return summed_cross_entropy(logits, labels)


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (..., C) logits summed over the labels that are not ignored, in float32."""
    flat = logits.float().reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, labels.reshape(-1).to(flat.device, torch.long), ignore_index=IGNORED, reduction="sum")


def squared_error(logits: Tensor, labels: Any) -> Tensor:
    """Summed squared error of (B,) or (B, 1) numbers, in float32."""
    return F.mse_loss(logits.float().reshape(-1), labels.float().reshape(-1), reduction="sum")
