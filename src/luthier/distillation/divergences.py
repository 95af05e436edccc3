"""How far a learner's distributions are from those it learns from, summed over rows, in chunks of them.

Source: Lee et al., Findings of ACL 2023, equation 2 (the forward direction); the others are the knob `kl_direction`.

Shapes: N rows (decisions, or masked positions), V classes or tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from luthier.distillation.together import CHUNK_ELEMENTS, Chunk, Values, summed_together
from luthier.language_modeling.rows import PredictionRows

Direction = Literal["forward", "reverse", "jsd"]


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
    sides = {"learner": learner, "teacher": teacher.detach() if stop_gradient else teacher}
    values = divergence_term("learner", "teacher", temperature, direction, stop_gradient=stop_gradient)
    return summed_together(sides, [values], [1.0], chunk_elements=chunk_elements)[0]


def _between(log_p: Tensor, log_q: Tensor, direction: str) -> Tensor:
    """Of every row of log-probabilities of the teacher p and the learner q."""
    with torch.autocast(log_p.device.type, enabled=False):  # which would sum in half precision
        if direction == "forward":
            return torch.linalg.vecdot(log_p.exp(), log_p - log_q)
        if direction == "reverse":
            return torch.linalg.vecdot(log_q.exp(), log_q - log_p)
        middle = torch.logaddexp(log_p, log_q) - math.log(2)
        return (torch.linalg.vecdot(log_p.exp(), log_p - middle) + torch.linalg.vecdot(log_q.exp(), log_q - middle)) / 2


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
    values = divergence_term("learner", "teacher", temperature, direction, stop_gradient=stop_gradient)
    sides = {"learner": learner, "teacher": teacher.detached() if stop_gradient else teacher}
    return summed_together(sides, [values], [1.0], dtype=dtype, chunk_elements=chunk_elements)[0]


def divergence_term(
    learner: str, teacher: str, temperature: float, direction: str, *, stop_gradient: bool = True
) -> Values:
    """The divergence of two models, by their names, as a term of `summed_together`."""

    def values(chunk: Chunk) -> Tensor:
        if chunk.logits[learner].shape[1] == 1:
            constant = chunk.logits[teacher].detach() if stop_gradient else chunk.logits[teacher]
            return (chunk.logits[learner] - constant).square()[:, 0]
        log_p = chunk.log_probabilities(teacher, temperature, constant=stop_gradient)
        return _between(log_p, chunk.log_probabilities(learner, temperature), direction)

    return values


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
    rows = len(learner) if isinstance(learner, Tensor) else len(learner.hidden)
    if rows != len(teacher):
        raise ValueError(f"the learner has {rows} rows and the stored teacher {len(teacher)}")
    values = stored_term("learner", teacher, temperature, direction)
    return summed_together({"learner": learner}, [values], [1.0], dtype=dtype, chunk_elements=chunk_elements)[0]


def stored_term(learner: str, teacher: StoredRows, temperature: float, direction: str) -> Values:
    """The divergence of a model from stored outputs, as a term of `summed_together`."""

    def values(chunk: Chunk) -> Tensor:
        rows = teacher.of(chunk.rows)
        if chunk.logits[learner].shape[1] == 1:
            return (chunk.logits[learner] - rows.log_p).square()[:, 0]
        return _from_stored(chunk.log_probabilities(learner, temperature), rows, direction)

    return values


def _from_stored(log_all: Tensor, teacher: StoredRows, direction: str) -> Tensor:
    """Of every row of the learner's (n, V) log-probabilities."""
    log_q, log_p = log_all.gather(1, teacher.tokens), teacher.log_p
    if teacher.tokens.shape[1] < log_all.shape[1]:
        others = log_all.scatter(1, teacher.tokens, -torch.inf).logsumexp(-1, keepdim=True)
        log_q, log_p = torch.cat([log_q, others], 1), torch.cat([log_p, teacher.log_rest[:, None]], 1)
    return _between(log_p, log_q, direction)
