"""Gates: a number in (0, 1) for each example, or each token, computed from the states that a part reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Pooling:
    """How values (B, T, n) of the tokens become one for each example.

    Attributes:
        per_token: keep them apart.
        first: take the first one.
        weights: (B, 1, T), summing to 1 over the tokens that count; None is the plain mean.
    """

    per_token: bool = False
    first: bool = False
    weights: torch.Tensor | None = None

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """(B, T, n) -> (B, 1, n), or unchanged per token."""
        if self.per_token:
            return values
        if self.first:
            return values[:, :1]
        if self.weights is None:
            return values.mean(dim=1, keepdim=True)
        return self.weights.to(values.dtype) @ values


def pooling_of(kind: str, visible: torch.Tensor | None, dtype: torch.dtype) -> Pooling:
    """Pooling of one of the kinds of `UniPELTConfig.gate_pooling`.

    Args:
        visible: (B, T), true for text; None where there is no padding.
        dtype: of the weights.
    """
    if kind == "per_token":
        return Pooling(per_token=True)
    if kind == "all" or (visible is None and kind == "mask_aware"):
        return Pooling()
    if visible is None:
        return Pooling(first=True)
    if kind == "first_token":
        return Pooling(weights=first_visible(visible, dtype))
    text = visible.to(dtype)
    return Pooling(weights=(text / text.sum(dim=1, keepdim=True).clamp(min=1))[:, None])


def first_visible(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, T) -> (B, 1, T): 1 at the first token of the text, 0 elsewhere."""
    return F.one_hot(visible.to(torch.int8).argmax(dim=1), visible.shape[1]).to(dtype)[:, None]


def visible_tokens(mask: torch.Tensor | None, multiplicative: bool = False) -> torch.Tensor | None:
    """Which positions hold text, from the mask that an attention module gets.

    A token that may look at itself is text: the diagonal holds the padding whatever else a mask hides (the future, or
    what lies outside of a window).

    Args:
        mask: None; (B, S); or (B, 1, T, S), boolean, or added to the scores.
        multiplicative: a floating-point mask holds 1 for visible and 0 for hidden (DeBERTa) instead.

    Returns:
        (B, T), or None where nothing is hidden.
    """
    if mask is None:
        return None
    if mask.ndim == 4:
        mask = mask[:, 0].diagonal(offset=mask.shape[3] - mask.shape[2], dim1=1, dim2=2)
    return mask >= 0 if mask.is_floating_point() and not multiplicative else mask.bool()


class Gate(nn.Module):
    """pool(sigmoid(w x_t + b)); starts near one half.

    Source: section 3.2 of the paper; the order of sigmoid and mean is that of the released code.
    """

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, width, device=device, dtype=dtype).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))

    def forward(self, states: torch.Tensor, pooling: Pooling) -> torch.Tensor:
        """(B, T, D) -> (B, 1, 1), or (B, T, 1) per token."""
        states = states.to(self.weight.dtype)
        return pooling(torch.sigmoid(F.linear(states, self.weight, self.bias)))


class CentralGate(nn.Module):
    """softmax(pool(relu(W x_t + b))) over two outputs: the shares of LoRA and of the prefix."""

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, width, device=device, dtype=dtype).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(2, device=device, dtype=dtype))

    def forward(self, states: torch.Tensor, pooling: Pooling) -> torch.Tensor:
        """(B, T, D) -> (B, 1, 2), or (B, T, 2) per token."""
        states = states.to(self.weight.dtype)
        return pooling(F.relu(F.linear(states, self.weight, self.bias))).softmax(dim=-1)
