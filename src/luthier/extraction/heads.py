"""The two classifiers: what a span is, and how two entities are related (SINET, section 3; SpERT without `sentence`).

Shapes: B sentences, N spans, P entities, d width, s width of a pooled span, w of a width embedding, E entity types and
none, Q relation types.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luthier.extraction.pooling import RangeMax, longest_of
from luthier.extraction.spans import Spans

# Rows of the table of width embeddings; longer spans share the last.
WIDTHS = 100


class WidthEmbedding(nn.Module):
    """(B, N) words of spans -> (B, N, w)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(WIDTHS, size)

    def forward(self, width: Tensor) -> Tensor:
        found: Tensor = self.table(width.clamp(0, WIDTHS - 1))
        return found


class EntityClassifier(nn.Module):
    """W [sentence; span; width] + b."""

    def __init__(self, options: Any, width: int, span: int, types: int) -> None:
        super().__init__()
        self.dropout = options.head_dropout
        self.sizes = [width, span, *([options.width_embedding] if options.width_embedding else [])]
        self.linear = nn.Linear(sum(self.sizes), types)

    def forward(self, sentence: Tensor, spans: Tensor, widths: Tensor | None) -> Tensor:
        """(B, d), (B, N, s) and (B, N, w) -> (B, N, E)."""
        parts = [sentence[:, None], spans, *([widths] if widths is not None else [])]
        return scored(self.linear, self.sizes, parts, spans.shape[:2], self.dropout if self.training else 0.0)


class RelationClassifier(nn.Module):
    """W [between; sentence; head; tail; width of head; width of tail] + b for all pairs of P entities.

    Attributes:
        threshold: (Q,) scores from which on a relation is told; saved with the weights.
    """

    threshold: Tensor

    def __init__(self, options: Any, width: int, span: int, types: int, sentence: bool) -> None:
        super().__init__()
        self.dropout, self.chunk = options.head_dropout, options.pair_chunk
        size = options.width_embedding
        self.sizes = [width, *([width] if sentence else []), span, span, *([size, size] if size else [])]
        self.sentence = sentence
        self.linear = nn.Linear(sum(self.sizes), types)
        self.default_threshold, self.tune_threshold = options.threshold, options.tune_thresholds
        self.register_buffer("threshold", torch.full((types,), options.threshold))

    def forward(
        self, context: Tensor, sentence: Tensor, entities: Tensor, widths: Tensor | None, spans: Spans
    ) -> Tensor:
        """Args:
            context: (B, T, d), what the words between two entities are pooled from.
            sentence: (B, d).
            entities, widths: (B, P, s) and (B, P, w).
            spans: the P entities.

        Returns:
            (B, P, P, Q), by head and tail.
        """
        rows, count = entities.shape[:2]
        heads, tails = entities[:, :, None], entities[:, None]
        others = [sentence[:, None, None]] if self.sentence else []
        others += [heads, tails, *([widths[:, :, None], widths[:, None]] if widths is not None else [])]
        upper = torch.triu_indices(count, count, 1, device=entities.device)
        start = torch.minimum(spans.end[:, upper[0]], spans.end[:, upper[1]])
        end = torch.maximum(spans.start[:, upper[0]], spans.start[:, upper[1]])
        between = RangeMax(context, longest_of(start, end))
        if self.training and self.dropout:
            grid = _both_ways(between(start, end), upper, count)
            return scored(self.linear, self.sizes, [grid, *others], (rows, count, count), self.dropout)
        weight = self.linear.weight[:, : self.sizes[0]]
        step = max(1, self.chunk)
        pieces = [
            F.linear(between(start[:, i : i + step], end[:, i : i + step]), weight)
            for i in range(0, upper.shape[1], step)
        ]
        pooled = torch.cat(pieces, dim=1) if pieces else weight.new_zeros(rows, 0, len(weight))
        return _both_ways(pooled, upper, count) + _added(self.linear, self.sizes, others, skip=1)


def scored(layer: nn.Linear, sizes: list[int], parts: list[Tensor], shape: Any, dropout: float) -> Tensor:
    """W [parts] + b. Each part may have size 1 where it is the same for several items; without dropout it is then
    multiplied once.

    Args:
        layer: W and b.
        sizes: last dimensions of the parts.
        shape: of the items, all but the last dimension.
        dropout: on what goes into the layer, drawn for every item.
    """
    if dropout:
        joined = torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], dim=-1)
        found: Tensor = layer(F.dropout(joined, dropout))
        return found
    return _added(layer, sizes, parts).expand(*shape, layer.out_features)


def _added(layer: nn.Linear, sizes: list[int], parts: list[Tensor], skip: int = 0) -> Tensor:
    """The sum of each part by its own columns of W, and b; the first `skip` columns' parts are left out."""
    found: Tensor = layer.bias
    for part, columns in zip(parts, layer.weight.split(sizes, dim=1)[skip:], strict=True):
        found = found + F.linear(part, columns)
    return found


def _both_ways(values: Tensor, upper: Tensor, count: int) -> Tensor:
    """(B, P (P - 1) / 2, n) of unordered pairs -> (B, P, P, n), with zeros on the diagonal."""
    grid = values.new_zeros(values.shape[0], count, count, values.shape[-1])
    grid[:, upper[0], upper[1]] = values
    grid[:, upper[1], upper[0]] = values
    return grid
