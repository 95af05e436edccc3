"""The losses of masked and of causal language models, computed in chunks over the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from luthier.language_modeling.rows import prediction_rows


def masked_lm_loss(
    model: nn.Module, batch: Mapping[str, Tensor], *, dtype: torch.dtype | None = None, in_place: bool = False
) -> Tensor:
    """Mean cross-entropy of the masked tokens: H = -(1/N) sum over masked positions of log p(y) (Devlin et al., “BERT”,
    NAACL 2019, section 3.1).

    Args:
        model: with a masked-language-model head.
        batch: `input_ids` and `labels` (B, L), -100 off the masked positions, and what else the model takes.
        dtype: of the product with the output embeddings; see `chunked_cross_entropy`.
        in_place: whether gradients of the embeddings are added to theirs directly, in half the memory; for
            `backward()` in one process alone.

    Returns:
        A scalar in float32, in nats; 0 where nothing is masked.
    """
    return _mean_loss(model, batch, shifted=False, dtype=dtype, in_place=in_place)


def causal_lm_loss(
    model: nn.Module, batch: Mapping[str, Tensor], *, dtype: torch.dtype | None = None, in_place: bool = False
) -> Tensor:
    """Mean cross-entropy of every token that follows another one.

    Args:
        model: with a causal language-model head.
        batch: `input_ids` (B, L), and what else the model takes; `labels` (B, L), -100 where nothing is learned,
            default all of `input_ids`. Position t predicts token t + 1.
        dtype: of the product with the output embeddings; see `chunked_cross_entropy`.
        in_place: as for `masked_lm_loss`.

    Returns:
        A scalar in float32, in nats.
    """
    return _mean_loss(model, batch, shifted=True, dtype=dtype, in_place=in_place)


def _mean_loss(model: nn.Module, batch: Mapping[str, Tensor], *, shifted: bool, dtype: Any, in_place: bool) -> Tensor:
    labels = batch.get("labels", batch["input_ids"])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    losses = prediction_rows(model, labels, shifted=shifted, inputs=inputs, in_place=in_place).losses(dtype)
    return losses.sum() / max(1, len(losses))
