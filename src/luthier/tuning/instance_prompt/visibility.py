"""Attention masks in which the prompt is hidden below its first layer.

Shapes: B examples, Q queries, L keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def shown_from(mask: Any, is_prompt: Tensor, causal: bool) -> Tensor:
    """The prepared attention mask (B, 1, Q, L) with the prompt's columns (B, L) made visible.

    Args:
        mask: boolean, true where a query sees a key, or numbers that are added to the scores.
        is_prompt: true at the columns to show.
        causal: a query sees only those up to its own column.

    Raises:
        ValueError: the mask has another form.
    """
    known = isinstance(mask, Tensor) and mask.ndim == 4 and (mask.dtype == torch.bool or mask.is_floating_point())
    if not known:
        raise ValueError(
            "first_layer above 0 needs a model whose layers take the attention mask of sdpa or eager attention"
        )
    columns = is_prompt[:, None, None, :]
    if causal:
        queries, keys = mask.shape[2], mask.shape[3]
        before = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril(keys - queries)
        columns = columns & before[None, None]
    return mask | columns if mask.dtype == torch.bool else mask.masked_fill(columns, 0.0)
