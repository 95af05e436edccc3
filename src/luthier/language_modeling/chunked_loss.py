"""Cross-entropy over a vocabulary, from hidden vectors, without ever holding all logits.

Shapes: N rows (predicted positions), H hidden width, V vocabulary, C one chunk of it.

The sum over the vocabulary is taken chunk by chunk with a running maximum (Milakov and Gimelshein, “Online normalizer
calculation for softmax”, 2018); the backward pass computes each chunk of logits again, so that the largest tensor in
either pass is (N, C), where plain cross-entropy keeps several of (N, V).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from luthier.language_modeling.in_place import gradient_of, takes_in_place

# Logits in one chunk, 16 MB. With many rows a chunk has at least as many tokens as the hidden width, so that products
# stay large; its logits then take no more than the hidden vectors themselves.
CHUNK_ELEMENTS = 1 << 22
_WIDEST_LEAST = 1024


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
    in_place: bool = False,
) -> Tensor:
    """-log softmax(hidden weight^T + bias) at the target, of every row.

    Args:
        hidden: (N, H).
        weight: (V, H), the output embeddings.
        targets: (N,) token ids; none is ignored, so leave rows without a target out.
        bias: (V,).
        dtype: what the products are computed in; default that of `hidden`. Logits, their maximum, sum and gradient are
            float32 in any case.
        chunk_elements: most logits that are held at a time, or as many as `hidden` has numbers where those are more.
        in_place: whether the gradient of `weight` is added to its `.grad` chunk by chunk, so that there is no second
            matrix of its size; see `luthier.language_modeling.in_place`.

    Returns:
        (N,) in float32, in nats. Gradients go to `hidden`, `weight` and `bias`.

    Raises:
        ValueError: the shapes do not fit.
    """
    parameter = weight if in_place and takes_in_place(weight) else None
    return _losses(hidden, weight, targets, bias, dtype, chunk_elements, parameter, None)


def vocabulary_parallel_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    first: int,
    group: Any,
    dtype: torch.dtype | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """`chunked_cross_entropy` where each process has a part of the vocabulary: N numbers for the maximum, the sum and
    the target's logit go between processes, and (N, H) for the gradient of `hidden`.

    Source: Shoeybi et al., “Megatron-LM” (2019), section 3.

    Args:
        hidden: (N, H), the same in all processes.
        weight: (V', H), the rows of this process.
        targets: (N,) token ids of the whole vocabulary, the same in all processes.
        bias: (V',).
        first: token of the first row of this process.
        group: of `torch.distributed`, whose processes have the whole vocabulary together.
        dtype, chunk_elements: as there.

    Returns:
        (N,) in float32, in nats, the same in all processes. The gradient of `hidden` is that of the whole vocabulary.
    """
    return _losses(hidden, weight, targets - first, bias, dtype, chunk_elements, None, group)


def _losses(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype | None,
    chunk_elements: int,
    parameter: Tensor | None,
    group: Any,
) -> Tensor:
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1] or weight.shape[1:] != hidden.shape[1:]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} have to be "
            "(N, H), (V, H) and (N,)"
        )
    least = min(_WIDEST_LEAST, hidden.shape[1])
    chunk = min(len(weight), max(least, chunk_elements // max(1, len(hidden))))
    options = (dtype or hidden.dtype, chunk, parameter, group)
    losses: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, *options)
    return losses


def projected(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(N, C) logits in float32; the product is computed in `dtype` and summed in float32 where the device can.

    Args:
        hidden: (N, H).
        weight: (C, H), a chunk of the output embeddings.
        bias: (C,).
    """
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    if dtype != torch.float32 and hidden.is_cuda:
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
        return logits if bias is None else logits.add_(bias.float())
    return F.linear(hidden, weight, None if bias is None else bias.to(dtype)).float()


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        chunk: int,
        parameter: Tensor | None,
        group: Any,
    ) -> Tensor:
        rows = len(hidden)
        largest = hidden.new_full((rows,), -torch.inf, dtype=torch.float32)
        total = torch.zeros_like(largest)
        of_target = torch.zeros_like(largest)
        for start, logits in _chunks(hidden, weight, bias, dtype, chunk):
            before = largest
            largest = torch.maximum(before, logits.amax(dim=1))
            place, here = _places(targets, start, logits.shape[1])
            of_target += logits.gather(1, place[:, None])[:, 0] * here
            total = total * (before - largest).exp() + logits.sub_(largest[:, None]).exp_().sum(dim=1)
        if group is not None:
            largest, total, of_target = _over_processes(largest, total, of_target, group)
        log_total = total.log() + largest
        ctx.save_for_backward(hidden, weight, bias, targets, log_total)
        ctx.dtype, ctx.chunk, ctx.parameter, ctx.group = dtype, chunk, parameter, group
        return log_total - of_target

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_total = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.zeros_like(hidden, dtype=torch.float32) if wants_hidden else None
        whole = None if ctx.parameter is None else gradient_of(ctx.parameter)
        of_weight = torch.empty_like(weight) if wants_weight and whole is None else None
        of_bias = torch.empty_like(bias) if wants_bias else None
        for start, logits in _chunks(hidden, weight, bias, ctx.dtype, ctx.chunk):
            end = start + logits.shape[1]
            place, here = _places(targets, start, logits.shape[1])
            slope = logits.sub_(log_total[:, None]).exp_()
            slope.scatter_add_(1, place[:, None], -here[:, None].to(slope.dtype))
            slope *= gradient[:, None]
            if of_bias is not None:
                of_bias[start:end] = slope.sum(dim=0)
            narrow = slope.to(ctx.dtype)
            if of_hidden is not None:
                of_hidden += narrow @ weight[start:end].to(ctx.dtype)
            if of_weight is not None:
                of_weight[start:end] = narrow.T @ hidden.to(ctx.dtype)
            if whole is not None:
                whole[start:end] += narrow.T @ hidden.to(ctx.dtype)
        if of_hidden is not None:
            if ctx.group is not None:
                distributed.all_reduce(of_hidden, group=ctx.group)
            of_hidden = of_hidden.to(hidden.dtype)
        return of_hidden, of_weight, of_bias, None, None, None, None, None


def _over_processes(largest: Tensor, total: Tensor, of_target: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum, sum over it and target's logit of the whole vocabulary."""
    own = largest.clone()
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX, group=group)
    total = total * (own - largest).exp()
    for one in (total, of_target):
        distributed.all_reduce(one, group=group)
    return largest, total, of_target


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, chunk: int
) -> Iterator[tuple[int, Tensor]]:
    """First token and float32 logits (N, C) of every chunk of the vocabulary."""
    hidden = hidden.to(dtype)
    for start in range(0, len(weight), chunk):
        end = start + chunk
        yield start, projected(hidden, weight[start:end], None if bias is None else bias[start:end], dtype)


def _places(targets: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """The column of every target in a chunk, 0 where it is in another one, and whether it is in this one."""
    here = (targets >= start) & (targets < start + size)
    return torch.where(here, targets - start, 0), here
