"""Attention in rows of packed documents without a mask: each document attends to itself, in a call of its own.

A mask of the row's square, which torch's SDPA takes to keep documents apart, is (L, L) numbers in memory, and the
products of all documents with all others are computed and thrown away. Here SDPA gets one document after another, with
its own causal kernel, so that memory grows with L and work with the squares of the documents.

Shapes: B rows, L tokens, H heads, G key-value heads, c head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "luthier_documents"


def document_spans(position_ids: Tensor) -> list[list[tuple[int, int]]]:
    """Where documents begin and end in each row.

    Args:
        position_ids: (B, L), which begin anew with each document.
    """
    length = position_ids.shape[1]
    begins = torch.ones_like(position_ids, dtype=torch.bool)
    begins[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
    starts = [row.nonzero()[:, 0].tolist() for row in begins.cpu()]
    return [list(zip(row, [*row[1:], length], strict=True)) for row in starts]


def document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers that is SDPA for each document by itself; for a row with a mask, or decoded
    with a cache, it is SDPA as it stands.

    Args:
        query, key, value: (B, H, L, c), (B, G, L, c) and (B, G, L, c).
        attention_mask: as `document_mask` gives it.
        position_ids: (B, L) or (1, L), which begin anew with each document.

    Returns:
        (B, L, H, c), and no weights.
    """
    spans = [] if position_ids is None else document_spans(position_ids)
    if attention_mask is not None or query.shape[2] != key.shape[2] or all(len(row) == 1 for row in spans):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    parts = []
    for number in range(len(query)):
        own = [tensor[number : number + 1] for tensor in (query, key, value)]
        documents = [[x[:, :, start:end] for x in own] for start, end in spans[number % len(spans)]]
        parts.append(torch.cat([sdpa_attention_forward(module, *one, None, **options)[0] for one in documents], dim=1))
    return torch.cat(parts), None


def document_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    **options: Any,
) -> Tensor | None:
    """The mask that `document_attention` needs: none for whole texts without padding, and what SDPA would get for all
    others, and for layers whose window is shorter than the row."""
    whole = attention_mask is None and q_length == kv_length and isinstance(q_offset, int) and q_offset == 0
    if whole and (local_size is None or q_length <= local_size):
        return None
    mask: Tensor | None = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        kv_offset,
        attention_mask=attention_mask,
        local_size=local_size,
        **options,
    )
    return mask


@contextmanager
def attending_within_documents(model: Any) -> Iterator[None]:
    """Inside the block the model attends within documents by `document_attention`; then as before."""
    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, document_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
