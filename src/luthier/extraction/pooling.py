"""Spans of word pieces as vectors, from indices and without a mask over every piece.

Shapes: B sentences, T pieces, d width, N spans. A span is [start, end) in pieces; an empty one gives zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def take(values: Tensor, index: Tensor) -> Tensor:
    """(B, T, d) at (B, N) -> (B, N, d)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


class RangeMax:
    """Maxima over any ranges of pieces by a sparse table: level k holds the maxima of 2^k pieces each.

    Args:
        values: (B, T, d).
        longest: pieces of the longest range that is asked for.
    """

    def __init__(self, values: Tensor, longest: int) -> None:
        self.levels, width = [values], 1
        while 2 * width <= min(longest, values.shape[1]):
            last = self.levels[-1]
            self.levels.append(torch.maximum(last[:, :-width], last[:, width:]))
            width *= 2

    def __call__(self, start: Tensor, end: Tensor) -> Tensor:
        """(B, N) starts and ends -> (B, N, d). Each range is looked up in its own level alone."""
        length = (end - start).flatten()
        level = torch.zeros_like(length)
        for k in range(1, len(self.levels)):
            level = level + (length >= 2**k)
        rows = torch.arange(len(start), device=start.device).repeat_interleave(start.shape[1])
        found = self.levels[0].new_zeros(len(length), self.levels[0].shape[-1])
        for k, values in enumerate(self.levels):
            here = ((level == k) & (length > 0)).nonzero()[:, 0]
            if not len(here):
                continue
            flat, before = values.flatten(0, 1), rows[here] * values.shape[1]
            first = flat.index_select(0, before + start.flatten()[here])
            if k:
                second = flat.index_select(0, before + end.flatten()[here] - 2**k)
                first = torch.maximum(first, second)
            found.index_copy_(0, here, first)
        return found.view(*start.shape, found.shape[-1])


class SpanPooling(nn.Module):
    """One vector for every span.

    Args:
        kind: `max`, `mean`, `endpoints` (first and last piece side by side) or `attention` (one learned score a piece).
        width: d.
    """

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.size = 2 * width if kind == "endpoints" else width
        self.piece_weight = nn.Linear(width, 1) if kind == "attention" else None

    def forward(self, values: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """(B, T, d) over (B, N) spans -> (B, N, d), or (B, N, 2d) for endpoints."""
        if self.kind == "max":
            return RangeMax(values, longest_of(start, end))(start, end)
        filled = (end > start)[..., None]
        if self.kind == "endpoints":
            most = values.shape[1] - 1
            both = [take(values, start.clamp(0, most)), take(values, (end - 1).clamp(0, most))]
            return torch.cat(both, dim=-1) * filled
        place = torch.arange(values.shape[1], device=values.device)
        inside = (place >= start[..., None]) & (place < end[..., None])
        if self.piece_weight is None:
            weights = inside.to(values.dtype) / inside.sum(-1, keepdim=True).clamp(min=1)
        else:
            scores = self.piece_weight(values).transpose(1, 2)
            low = torch.finfo(scores.dtype).min
            weights = torch.where(inside, scores, low).softmax(dim=-1) * filled
        return weights @ values


def longest_of(start: Tensor, end: Tensor) -> int:
    """Pieces of the longest span, 1 where there is none."""
    return max(1, int((end - start).max())) if start.numel() else 1
