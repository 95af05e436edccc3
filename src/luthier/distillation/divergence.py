"""How far a learner's distributions are from those it learns from, summed over rows, in chunks of them.

Source: Lee et al., Findings of ACL 2023, equation 2 (the forward direction); the others are the knob `kl_direction`.

Shapes: N rows (decisions, or masked positions), V classes or tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from luthier.language_modeling.chunked_loss import projected
from luthier.language_modeling.rows import PredictionRows

Direction = Literal["forward", "reverse", "jsd"]
# Logits of one model in a chunk: 16 MB in float32.
CHUNK_ELEMENTS = 1 << 22


def divergence(
    learner: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    direction: Direction = "forward",
    stop_gradient: bool = True,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Sum over rows of the divergence between softmax(teacher / T) and softmax(learner / T), in nats.

    Softmax, logarithm and sum are computed in float32 (float64 logits stay so), some rows at a time; what is kept for
    the backward pass is one gradient of the shape of each model's logits that needs one. One output a row means
    regression: there it is the squared difference, and temperature and direction have no meaning.

    Args:
        learner, teacher: (N, V) logits; N = 0 gives 0.
        temperature: T.
        direction: `forward` is KL(teacher || learner), `reverse` KL(learner || teacher), and `jsd` the Jensen-Shannon
            divergence, the mean of both models' KL to their mean distribution.
        stop_gradient: whether the teacher is a constant.
        chunk_elements: most logits of one model that are worked on at a time.

    Returns:
        A scalar in float32 or float64: no factor T^2, not divided by N nor by V.

    Raises:
        ValueError: the shapes differ.
    """
    if learner.shape != teacher.shape or learner.ndim != 2:
        raise ValueError(
            f"the learner's rows {tuple(learner.shape)} and the teacher's {tuple(teacher.shape)} must both be (N, V)"
        )
    rows = max(1, chunk_elements // max(1, learner.shape[1]))
    teacher = teacher.detach() if stop_gradient else teacher
    total: Tensor = _SummedByChunks.apply(learner, teacher, temperature, direction, rows)
    return total


def divergence_of_rows(learner: Tensor, teacher: Tensor, temperature: float, direction: str) -> Tensor:
    """`divergence` of every row, (N,), by plain operations on all rows at once."""
    if learner.shape[1] == 1:
        return (learner - teacher).square()[:, 0]
    log_q = F.log_softmax(learner / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    return _between(log_p, log_q, direction)


def _between(log_p: Tensor, log_q: Tensor, direction: str) -> Tensor:
    """Of every row of log-probabilities of the teacher p and the learner q."""
    if direction == "forward":
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if direction == "reverse":
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)).sum(-1) / 2


class _SummedByChunks(torch.autograd.Function):
    """The gradient is computed with the value, chunk by chunk, so that no distribution of all rows is ever held."""

    @staticmethod
    def forward(ctx: Any, learner: Tensor, teacher: Tensor, temperature: float, direction: str, rows: int) -> Tensor:
        sides = (learner, teacher)
        wanted = list(ctx.needs_input_grad[:2])
        gradients = [torch.empty_like(side) if need else None for side, need in zip(sides, wanted, strict=True)]
        exact = torch.float64 if learner.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=exact, device=learner.device)
        for start in range(0, len(learner), rows):
            part = slice(start, start + rows)
            pieces = [
                side[part].detach().to(exact).requires_grad_(need) for side, need in zip(sides, wanted, strict=True)
            ]
            with torch.enable_grad():
                value = divergence_of_rows(pieces[0], pieces[1], temperature, direction).sum()
            total += value.detach()
            leaves = [piece for piece in pieces if piece.requires_grad]
            found = iter(torch.autograd.grad(value, leaves) if leaves else ())
            for gradient in gradients:
                if gradient is not None:
                    gradient[part] = next(found)
        ctx.save_for_backward(*[g for g in gradients if g is not None])
        ctx.wanted = wanted
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        stored = iter(ctx.saved_tensors)
        found = [next(stored) * scale if need else None for need in ctx.wanted]
        return (*found, None, None, None)


def divergence_of_predictions(
    learner: PredictionRows,
    teacher: PredictionRows,
    *,
    temperature: float = 1.0,
    direction: Direction = "forward",
    stop_gradient: bool = True,
    dtype: torch.dtype | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """`divergence` of language models, from what their logits are projected from: no logits of all rows are ever held.

    Args:
        learner, teacher: of the same N positions, over the same vocabulary; their widths may differ.
        temperature, direction, stop_gradient, chunk_elements: as there.
        dtype: of the products with the output embeddings; None is that of the hidden vectors.

    Raises:
        ValueError: the numbers of rows or of tokens differ.
    """
    one, other = ((len(side.hidden), len(side.weight)) for side in (learner, teacher))
    if one != other:
        raise ValueError(f"the learner predicts {one} rows and tokens and the teacher {other}: they must be alike")
    rows = max(1, chunk_elements // max(1, one[1]))
    parts = [learner.hidden, learner.weight, learner.bias]
    theirs = [teacher.hidden, teacher.weight, teacher.bias]
    parts += [None if x is None else x.detach() for x in theirs] if stop_gradient else theirs
    total: Tensor = _SummedFromHidden.apply(*parts, dtype or learner.hidden.dtype, temperature, direction, rows)
    return total


class _SummedFromHidden(torch.autograd.Function):
    """As `_SummedByChunks`; the gradients of hidden vectors and output embeddings come of those of a chunk's logits."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *parts, dtype, temperature, direction, rows = arguments
        sides, needs = (parts[:3], parts[3:]), ctx.needs_input_grad
        wanted = [any(needs[:3]), any(needs[3:6])]
        gradients = [
            torch.zeros_like(p, dtype=_exact(p)) if need else None for p, need in zip(parts, needs, strict=False)
        ]
        total = torch.zeros((), dtype=_exact(parts[0]), device=parts[0].device)
        for start in range(0, len(parts[0]), rows):
            piece = slice(start, start + rows)
            logits = [
                _logits(hidden[piece], weight, bias, dtype).requires_grad_(need)
                for (hidden, weight, bias), need in zip(sides, wanted, strict=True)
            ]
            with torch.enable_grad():
                value = divergence_of_rows(logits[0], logits[1], temperature, direction).sum()
            total += value.detach()
            leaves = [one for one in logits if one.requires_grad]
            slopes = iter(torch.autograd.grad(value, leaves) if leaves else ())
            for number, (hidden, weight, _) in enumerate(sides):
                if wanted[number]:
                    _add(gradients[3 * number : 3 * number + 3], next(slopes), hidden, weight, piece, dtype)
        ctx.save_for_backward(*[g if g is None else g.to(p.dtype) for g, p in zip(gradients, parts, strict=True)])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return (*[None if g is None else g * scale for g in ctx.saved_tensors], None, None, None, None)


def _exact(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float64:
        return F.linear(hidden, weight, bias).detach()
    return projected(hidden, weight, bias, dtype).detach()


def _add(
    gradients: list[Tensor | None], slope: Tensor, hidden: Tensor, weight: Tensor, piece: slice, dtype: torch.dtype
) -> None:
    """Add a chunk's share to the gradients of hidden vectors, output embeddings and bias."""
    of_hidden, of_weight, of_bias = gradients
    narrow = slope.to(dtype)
    if of_hidden is not None:
        of_hidden[piece] = (narrow @ weight.to(dtype)).to(of_hidden.dtype)
    if of_weight is not None:
        of_weight += narrow.T @ hidden[piece].to(dtype)
    if of_bias is not None:
        of_bias += slope.sum(0)


@dataclass(frozen=True)
class StoredRows:
    """A teacher's likeliest classes or tokens at N positions.

    Attributes:
        log_p: (N, K) log-probabilities at the teacher's temperature; for numbers, (N, 1) the numbers themselves.
        tokens: (N, K), which classes or tokens they are of.
        log_rest: (N,) log-probability of all others; minus infinity where none is left out.
    """

    log_p: Tensor
    tokens: Tensor
    log_rest: Tensor

    def __len__(self) -> int:
        return len(self.log_p)

    def of(self, piece: slice) -> StoredRows:
        """Some of the rows."""
        return StoredRows(self.log_p[piece], self.tokens[piece], self.log_rest[piece])


def divergence_from_stored(
    learner: Tensor | PredictionRows,
    teacher: StoredRows,
    *,
    temperature: float = 1.0,
    direction: Direction = "forward",
    dtype: torch.dtype | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """`divergence` from a teacher's stored likeliest tokens, where all others count as one: at most the divergence from
    its whole distribution, and equal to it where all are stored.

    Args:
        learner: (N, V) logits, or what they are projected from.
        teacher: of the same N rows, stored at this temperature.
        temperature, direction, dtype, chunk_elements: as of `divergence_of_predictions`.

    Raises:
        ValueError: the numbers of rows differ.
    """
    parts: tuple[Tensor, Tensor | None, Tensor | None] = (
        (learner, None, None) if isinstance(learner, Tensor) else (learner.hidden, learner.weight, learner.bias)
    )
    if len(parts[0]) != len(teacher):
        raise ValueError(f"the learner has {len(parts[0])} rows and the stored teacher {len(teacher)}")
    width = learner.shape[1] if isinstance(learner, Tensor) else len(learner.weight)
    rows = max(1, chunk_elements // max(1, width))

    def values(logits: Tensor, piece: slice) -> Tensor:
        return stored_divergence_of_rows(logits, teacher.of(piece), temperature, direction)

    total: Tensor = _SummedAgainst.apply(*parts, dtype or parts[0].dtype, rows, values)
    return total


def stored_divergence_of_rows(learner: Tensor, teacher: StoredRows, temperature: float, direction: str) -> Tensor:
    """`divergence_from_stored` of every row, (N,), by plain operations on all rows at once."""
    if learner.shape[1] == 1:
        return (learner - teacher.log_p).square()[:, 0]
    scaled = learner / temperature
    log_all = scaled.logsumexp(-1, keepdim=True)
    log_q, log_p = scaled.gather(1, teacher.tokens) - log_all, teacher.log_p
    if teacher.tokens.shape[1] < learner.shape[1]:
        others = scaled.scatter(1, teacher.tokens, -torch.inf).logsumexp(-1, keepdim=True) - log_all
        log_q, log_p = torch.cat([log_q, others], 1), torch.cat([log_p, teacher.log_rest[:, None]], 1)
    return _between(log_p, log_q, direction)


class _SummedAgainst(torch.autograd.Function):
    """The sum over chunks of rows of what a constant teacher makes of the learner's logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        dtype: torch.dtype,
        rows: int,
        values: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        parts, needs = (hidden, weight, bias), ctx.needs_input_grad[:3]
        wanted = [
            torch.zeros_like(p, dtype=_exact(p)) if need and p is not None else None
            for p, need in zip(parts, needs, strict=True)
        ]
        total = torch.zeros((), dtype=_exact(hidden), device=hidden.device)
        for start in range(0, len(hidden), rows):
            piece = slice(start, start + rows)
            direct = hidden[piece].detach().to(_exact(hidden))
            logits = (direct if weight is None else _logits(hidden[piece], weight, bias, dtype)).requires_grad_(
                any(needs)
            )
            with torch.enable_grad():
                value = values(logits, piece).sum()
            total += value.detach()
            if any(needs):
                (slope,) = torch.autograd.grad(value, [logits])
                if weight is not None:
                    _add(wanted, slope, hidden, weight, piece, dtype)
                elif wanted[0] is not None:
                    wanted[0][piece] = slope
        kept = [None if g is None or p is None else g.to(p.dtype) for g, p in zip(wanted, parts, strict=True)]
        ctx.save_for_backward(*kept)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return (*[None if g is None else g * scale for g in ctx.saved_tensors], None, None, None)
