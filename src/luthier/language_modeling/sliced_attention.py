"""Attention from a slice of a row to the whole of it: keys and values come from the processes that share the row.

Each process computes queries, keys and values of its own columns. Keys and values of all are gathered, in the backward
pass their gradients are summed where they belong, and SDPA gets the queries of one document after another with the keys
that these may look at. So a process keeps the activations of its slice, and of whole rows keys and values alone.
Source: Grattafiori et al., “The Llama 3 Herd of Models” (2024), section 3.3.2.

Shapes: R processes that share a row, B rows, L tokens, S = L / R of them here, H heads, G key-value heads, c width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from luthier.errors import ModelError
from luthier.language_modeling.row_slices import RowSlices

Attention = Callable[..., tuple[Tensor, Any]]


@dataclass(frozen=True)
class Span:
    """Queries of one piece and one document, and the keys that the last of them may look at.

    Attributes:
        start, end: of the queries, in the slice.
        first, last: of the keys, in the row; `last` is the one behind the last.
    """

    start: int
    end: int
    first: int
    last: int


def spans_of(first_columns: Tensor, slices: RowSlices) -> list[list[Span]]:
    """The spans of each row.

    Args:
        first_columns: (B, S), the first column that each position may look at.
        slices: of this process.
    """
    found = []
    for row in first_columns.tolist():
        spans, offset = [], 0
        for begin, end in slices.pieces(len(row) * slices.processes):
            behind = offset + end - begin
            starts = [offset, *(n for n in range(offset + 1, behind) if row[n] != row[n - 1])]
            for start, stop in zip(starts, [*starts[1:], behind], strict=True):
                spans.append(Span(start, stop, row[start], begin + stop - offset))
            offset = behind
        found.append(spans)
    return found


class SlicedAttention:
    """An attention function of transformers for batches of `RowSlices.of_batch`; any other batch it leaves to the
    function that it stands in front of.

    Args:
        slices: of this process.
        group: the processes that share its rows, of `torch.distributed`.
        whole: the attention of whole rows.
        length: tokens of the longest rows.
    """

    def __init__(self, slices: RowSlices, group: Any, whole: Attention, length: int) -> None:
        self.slices, self.group, self.whole, self.length = slices, group, whole, length
        self._seen: tuple[Tensor | None, list[list[Span]]] = None, []

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Any]:
        """
        Args:
            query, key, value: (B, H, S, c), (B, G, S, c) and (B, G, S, c) of the slices.
            attention_mask: (B, 1, 1, S), the first column that each position may look at.

        Returns:
            (B, S, H, c), and no weights.

        Raises:
            ModelError: the layer attends to a window that is shorter than rows may be.
        """
        if attention_mask is None or attention_mask.ndim != 4 or attention_mask.dtype != torch.int64:
            return self.whole(module, query, key, value, attention_mask, **options)
        refuse_window(options.get("sliding_window"), self.length)
        dtype = _computed_in(query)
        query, both = query.to(dtype), torch.cat([key, value], dim=-1).to(dtype)
        gathered: Tensor = _Gathered.apply(both, self.slices, self.group)
        keys, values = gathered.split([key.shape[-1], value.shape[-1]], dim=-1)
        given = {"dropout_p": options.get("dropout") or 0.0, "scale": options.get("scaling")}
        spans = self._spans(attention_mask)
        if all(one == spans[0] for one in spans):
            return _attended(query, keys, values, spans[0], given), None
        rows = [slice(n, n + 1) for n in range(len(spans))]
        parts = [_attended(query[n], keys[n], values[n], own, given) for n, own in zip(rows, spans, strict=True)]
        return torch.cat(parts), None

    def _spans(self, first_columns: Tensor) -> list[list[Span]]:
        """Found once for all layers, which are given the same tensor."""
        if self._seen[0] is not first_columns:
            self._seen = first_columns, spans_of(first_columns[:, 0, 0], self.slices)
        return self._seen[1]


def refuse_window(window: int | None, length: int) -> None:
    """Raises:
    ModelError: a layer attends to no more than a window of the longest rows.
    """
    if window is not None and window < length:
        raise ModelError(
            f"a layer attends to {window:,} tokens, and rows of {length:,} are to be shared by processes",
            fix="set `context_parallel_size: 1`, or take a model whose layers attend to the whole row",
        )


class _Gathered(torch.autograd.Function):
    """(B, G, S, c) slices -> (B, G, L, c) whole rows; gradients of all processes are added up where they belong."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, slices: RowSlices, group: Any) -> Tensor:
        ctx.slices, ctx.group = slices, group
        parts = own.new_empty((slices.processes * len(own), *own.shape[1:]))
        dist.all_gather_single(parts, own.contiguous(), group=group)
        return slices.in_order(parts.unflatten(0, (slices.processes, len(own))))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        parts = ctx.slices.by_process(gradient)
        own = torch.empty_like(parts[0])
        dist.reduce_scatter_single(own, parts.flatten(0, 1), group=ctx.group)
        return own, None, None


def _computed_in(tensor: Tensor) -> torch.dtype:
    """What SDPA computes in, so that no more is sent between processes than it takes."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def _attended(query: Tensor, keys: Tensor, values: Tensor, spans: list[Span], given: dict[str, Any]) -> Tensor:
    """(B, S, H, c) for rows of the same spans."""
    parts = []
    for one in spans:
        seen = slice(one.first, one.last)
        parts.append(_looking_back(query[:, :, one.start : one.end], keys[:, :, seen], values[:, :, seen], given))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _looking_back(query: Tensor, keys: Tensor, values: Tensor, given: dict[str, Any]) -> Tensor:
    """Causal attention of the last Q of K positions, (B, H, Q, c), to all K."""
    given = {**given, "enable_gqa": query.shape[1] != keys.shape[1]}
    if query.shape[2] == keys.shape[2]:
        return F.scaled_dot_product_attention(query, keys, values, is_causal=True, **given)
    if query.device.type != "cpu":
        mask: Tensor = causal_lower_right(query.shape[2], keys.shape[2])
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, **given)
    mask = _seen_by_last_first(query, keys.shape[2])
    return F.scaled_dot_product_attention(query.flip(2), keys, values, attn_mask=mask, **given).flip(2)


def _seen_by_last_first(query: Tensor, keys: int) -> Tensor:
    """(Q, K) numbers that are added to the products of the last Q of K positions, the last one first, with all keys.

    SDPA has no kernel for a CPU that knows where the last Q of K positions stand. Each row of their mask is the one
    before moved by a column, so that all rows are views of Q + K - 1 numbers.
    """
    queries = query.shape[2]
    line = query.new_zeros(queries + keys - 1)
    line[keys:] = -torch.inf
    return line.as_strided((queries, keys), (1, 1))
