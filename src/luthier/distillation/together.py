"""Sums over rows of what terms make of models' logits, with each model projected onto the vocabulary once.

Shapes: N rows (predicted positions), n of them in a chunk, H hidden width, V vocabulary.

A step's loss is a weighted sum of terms, cross-entropies and divergences, that look at the logits of the same rows.
Taken one by one each projects its models again; here a chunk's logits are made once for all of them, and one gradient
of the weighted sum goes back to what they were projected from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from luthier.language_modeling.chunked_loss import projected
from luthier.language_modeling.rows import PredictionRows

# Logits of one model in a chunk: 16 MB in float32.
CHUNK_ELEMENTS = 1 << 22
# A model's logits or what they are projected from.
Rows = Tensor | PredictionRows


class Chunk:
    """Some rows' logits of every model, and what terms share of them.

    Attributes:
        rows: which rows they are.
        logits: name -> (n, V) logits, float32 or float64.
    """

    def __init__(self, rows: slice, logits: Mapping[str, Tensor]) -> None:
        self.rows, self.logits = rows, logits
        self._log_probabilities: dict[tuple[str, float], Tensor] = {}

    def log_probabilities(self, name: str, temperature: float = 1.0, *, constant: bool = False) -> Tensor:
        """(n, V) of a model, made once however many terms ask.

        Args:
            name: of the model.
            temperature: what its logits are divided by.
            constant: whether no gradient goes back to it.
        """
        key = name, temperature
        if key not in self._log_probabilities:
            logits = self.logits[name]
            logits = logits if temperature == 1 else logits / temperature
            self._log_probabilities[key] = F.log_softmax(logits, dim=-1)
        found = self._log_probabilities[key]
        return found.detach() if constant else found


# (n,) values of the rows of a chunk.
Values = Callable[[Chunk], Tensor]


def summed_together(
    models: Mapping[str, Rows],
    terms: Sequence[Values],
    weights: Sequence[float],
    *,
    dtype: torch.dtype | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of terms over all rows, and each term's own sum.

    Softmaxes, logarithms and sums are in float32 (float64 stays so), some rows at a time: no logits of all rows are
    ever held. The gradient is computed with the value and kept until the backward pass.

    Args:
        models: name -> (N, V) logits, or what they are projected from, of the same N rows. Widths may differ.
        terms: what is made of the logits; one that takes a model as a constant detaches it.
        weights: of the terms.
        dtype: of the products with the output embeddings; None is that of the hidden vectors.
        chunk_elements: most logits of one model that are worked on at a time.

    Returns:
        The weighted sum, with gradients to all models, and the (T,) sums without any.

    Raises:
        ValueError: the numbers of rows differ.
    """
    sides = [(m, None, None) if isinstance(m, Tensor) else (m.hidden, m.weight, m.bias) for m in models.values()]
    sizes = {len(side[0]) for side in sides}
    if len(sizes) != 1:
        raise ValueError(f"the models have {' and '.join(map(str, sorted(sizes)))} rows: they must be of the same ones")
    width = max(side[0].shape[1] if side[1] is None else len(side[1]) for side in sides)
    rows = max(1, chunk_elements // max(1, width))
    flat = [part for side in sides for part in side]
    found: tuple[Tensor, Tensor] = _SummedTogether.apply(list(models), terms, list(weights), dtype, rows, *flat)
    return found


class _SummedTogether(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        names: list[str],
        terms: Sequence[Values],
        weights: list[float],
        dtype: torch.dtype | None,
        rows: int,
        *parts: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        needs = ctx.needs_input_grad[5:]
        sides = [_Side(parts[i : i + 3], needs[i : i + 3], dtype) for i in range(0, len(parts), 3)]
        exact = sides[0].exact
        sums = torch.zeros(len(terms), dtype=exact, device=sides[0].hidden.device)
        for start in range(0, len(sides[0].hidden), rows):
            piece = slice(start, start + rows)
            logits = [side.logits(piece) for side in sides]
            with torch.enable_grad():
                chunk = Chunk(piece, dict(zip(names, logits, strict=True)))
                values = torch.stack([term(chunk).sum() for term in terms])
                total = (values * values.new_tensor(weights)).sum()
            sums += values.detach()
            learning = [(side, one) for side, one in zip(sides, logits, strict=True) if side.learns]
            if learning and total.requires_grad:
                slopes = torch.autograd.grad(total, [one for _, one in learning], allow_unused=True)
                for (side, _), slope in zip(learning, slopes, strict=True):
                    if slope is not None:
                        side.add(slope, piece)
        ctx.save_for_backward(*[gradient for side in sides for gradient in side.gradients_like_parts()])
        ctx.mark_non_differentiable(sums)
        return (sums * sums.new_tensor(weights)).sum(), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        return (None,) * 5 + tuple(None if g is None else g * scale for g in ctx.saved_tensors)


class _Side:
    """One model in a pass over chunks: makes their logits, and gathers their gradients.

    Args:
        parts: hidden vectors (N, H), output embeddings (V, H) and bias (V,) or None; or logits (N, V) alone.
        needs: which of them need a gradient.
        dtype: of the products.
    """

    def __init__(self, parts: Sequence[Tensor | None], needs: Sequence[bool], dtype: torch.dtype | None) -> None:
        hidden, self.weight, self.bias = parts
        assert hidden is not None
        self.hidden, self.parts, self.learns = hidden, parts, any(needs)
        self.dtype = dtype or hidden.dtype
        self.exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.gradients = [
            torch.zeros_like(part, dtype=self.exact) if need and part is not None else None
            for part, need in zip(parts, needs, strict=True)
        ]

    def logits(self, piece: slice) -> Tensor:
        """Of some rows, as a leaf."""
        hidden = self.hidden[piece]
        if self.weight is None:
            found = hidden.to(self.exact)
        elif self.dtype == torch.float64:
            found = F.linear(hidden, self.weight, self.bias)
        else:
            found = projected(hidden, self.weight, self.bias, self.dtype)
        return found.detach().requires_grad_(self.learns)

    def add(self, slope: Tensor, piece: slice) -> None:
        """Take in the gradient of some rows' logits."""
        of_hidden, of_weight, of_bias = self.gradients
        if self.weight is None:
            assert of_hidden is not None
            of_hidden[piece] = slope
            return
        narrow = slope.to(self.dtype)
        if of_hidden is not None:
            of_hidden[piece] = (narrow @ self.weight.to(self.dtype)).to(self.exact)
        if of_weight is not None:
            of_weight += narrow.T @ self.hidden[piece].to(self.dtype)
        if of_bias is not None:
            of_bias += slope.sum(0)

    def gradients_like_parts(self) -> list[Tensor | None]:
        """In the types of what they are of."""
        return [
            None if gradient is None or part is None else gradient.to(part.dtype)
            for gradient, part in zip(self.gradients, self.parts, strict=True)
        ]
