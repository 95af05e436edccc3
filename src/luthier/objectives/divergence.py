"""How far two outputs of a classifier are apart.

Shapes: B examples, T tokens, C classes, N rows that are compared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.data.schemas import IGNORED

# What no token has as its logit: finite, so that two models' differences of it are 0 and not undefined.
_NOWHERE = -1e9


def comparable_rows(logits: Any, labels: Tensor | None, *, shifted: bool = False, mask: Tensor | None = None) -> Tensor:
    """The logits that count, one row for each decision.

    Args:
        logits: (B, C) or (B,); (B, P + T, C) for token labels with P prompt positions in front; a pair of (B, T)
            for the start and end of an answer.
        labels: (B, T) where tokens are labelled; positions with -100 are left out. (B, C) numbers where every logit is
            that of a yes or no of its own.
        shifted: whether position t is scored against the label at t + 1, as causal language models do.
        mask: (B, T), 1 at tokens. An answer starts and ends at one of them: of a pair, prompt positions in front are
            cut off, and padding gets no probability.

    Returns:
        (N, C), in at least float32; of a pair, the B starts and then the B ends; (B * C, 2), for no and yes, where
        every logit is a decision.
    """
    if isinstance(logits, tuple | list):
        logits = torch.cat([_at_tokens(one, mask) for one in logits], dim=0)
    if logits.ndim == 1:
        logits = logits[:, None]
    if logits.ndim == 3 and labels is not None and labels.ndim == 2:
        labels, behind = _scored(labels, logits.shape[1], shifted), int(shifted)
        end = logits.shape[1] - behind
        logits = logits[:, end - labels.shape[1] : end][labels.to(logits.device) != IGNORED]
    if labels is not None and labels.ndim == logits.ndim == 2 and labels.is_floating_point():
        logits = torch.stack([torch.zeros_like(logits), logits], dim=-1)
    logits = logits.reshape(-1, logits.shape[-1])
    return logits if logits.dtype == torch.float64 else logits.float()


def counted_labels(labels: Tensor, positions: int | None, *, shifted: bool = False) -> Tensor:
    """The labels of `comparable_rows`, (N,).

    Args:
        labels: (B,), or (B, T) where tokens are labelled.
        positions: of the logits, P + T; None without tokens.
        shifted: as there.
    """
    if positions is not None and labels.ndim == 2:
        labels = _scored(labels, positions, shifted)
    labels = labels.reshape(-1)
    return labels[labels != IGNORED]


def _scored(labels: Tensor, positions: int, shifted: bool) -> Tensor:
    """The labels that some position predicts: without a prompt in front nothing predicts the first token."""
    return labels[:, 1:] if shifted and positions == labels.shape[1] else labels


def _at_tokens(logits: Tensor, mask: Tensor | None) -> Tensor:
    """(B, P + T) logits of positions as (B, T) of tokens, in at least float32."""
    if mask is None:
        return logits
    logits = logits[:, logits.shape[1] - mask.shape[1] :]
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact.masked_fill(mask.to(logits.device) == 0, _NOWHERE)


def symmetric_divergence(perturbed: Tensor, clean: Tensor) -> Tensor:
    """sum over rows of KL(perturbed || clean) + KL(clean || perturbed), in nats (RoAST, section 2: KLsum).

    One output a row means regression; there it is the summed squared difference.

    Args:
        perturbed, clean: (N, C) logits.
    """
    if clean.shape[-1] == 1:
        return (perturbed - clean).square().sum()
    log_a, log_c = F.log_softmax(perturbed, dim=-1), F.log_softmax(clean, dim=-1)
    return ((log_a.exp() - log_c.exp()) * (log_a - log_c)).sum()
