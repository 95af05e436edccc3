"""Gradients of large embeddings, added where they belong without a second matrix of their size.

The gradient of a matrix of embeddings comes twice where input and output share it, each time as a matrix as large as
itself, most rows of which are zero for the input. Functions of this module add theirs to `.grad` of the parameter
directly. Autograd learns nothing of it: they fit `loss.backward()` in one process, and neither `torch.autograd.grad`
nor wrappers that wait for a parameter's gradient.

Shapes: V tokens, H hidden width, N looked-up rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luthier.training.row_gradient import row_gradient_of


def takes_in_place(weight: Tensor) -> bool:
    """Whether a tensor is a parameter that is trained, with a gradient of its own."""
    return weight.is_leaf and weight.requires_grad


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient that is there, or zeros."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def looked_up(weight: Tensor, ids: Tensor, *, padding: int | None = None, in_place: bool = True) -> Tensor:
    """Rows of a matrix, (*ids, H).

    Args:
        weight: (V, H).
        ids: rows, of any shape.
        padding: the row that gets no gradient.
        in_place: whether the gradient is added to `weight.grad` directly, or to that of its rows where it is collected
            by rows; else autograd has it.
    """
    if not in_place or not takes_in_place(weight):
        return nn.functional.embedding(ids, weight, padding)
    if (by_rows := row_gradient_of(weight)) is not None:
        by_rows.reading(ids)
    rows: Tensor = _LookedUp.apply(weight, ids, padding)
    return rows


class _LookedUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.parameter, ctx.padding = weight, padding
        ctx.save_for_backward(ids)
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        ids, gradient = ids.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
        if ctx.padding is not None:
            kept = ids != ctx.padding
            ids, gradient = ids[kept], gradient[kept]
        if (by_rows := row_gradient_of(ctx.parameter)) is not None:
            by_rows.add(ids, gradient)
            return None, None, None
        target = gradient_of(ctx.parameter)
        target.index_add_(0, ids, gradient.to(target.dtype))
        return None, None, None


def is_plain(embedding: Any) -> bool:
    """Whether a layer looks rows of a trained matrix up and does nothing else."""
    return (
        isinstance(embedding, nn.Embedding)
        and type(embedding).forward is nn.Embedding.forward
        and embedding.max_norm is None
        and not (embedding.scale_grad_by_freq or embedding.sparse)
        and takes_in_place(embedding.weight)
    )


@contextmanager
def lookup_in_place(embedding: Any) -> Iterator[None]:
    """Inside the block a layer of embeddings adds its gradient directly, where it is a plain one that is trained."""
    if not is_plain(embedding) or "forward" in vars(embedding):
        yield
        return
    embedding.forward = partial(_forward, embedding)
    try:
        yield
    finally:
        del embedding.forward


def _forward(embedding: nn.Embedding, ids: Tensor) -> Tensor:
    return looked_up(embedding.weight, ids, padding=embedding.padding_idx)
