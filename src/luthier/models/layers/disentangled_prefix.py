"""Prefixes for DeBERTa-v2, whose attention adds terms of relative position to the scores and calls no stock function.

Prefix columns have no position: their scores are content to content alone, with the scale of the module's own.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from luthier.models.layers.attention_prefix import (
    OBSERVER,
    active_prefixes,
    join,
    prefix_length,
    split_output,
    widen_mask,
)


def is_disentangled(attention: nn.Module) -> bool:
    """Whether the module is DeBERTa-v2's attention."""
    return isinstance(attention, DisentangledSelfAttention)


def serve_disentangled(attention: nn.Module) -> None:
    """Make this module ask its prefix providers."""
    if "forward" not in attention.__dict__:
        attention.__dict__["forward"] = partial(attend, attention)


def stop_disentangled(module: nn.Module) -> None:
    """Undo `serve_disentangled`."""
    if is_disentangled(module):
        module.__dict__.pop("forward", None)


def attend(
    module: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    output_attentions: bool = False,
    query_states: torch.Tensor | None = None,
    relative_pos: torch.Tensor | None = None,
    rel_embeddings: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The module's forward with prefixes; without any, its own.

    Args:
        hidden_states: (B, T, D).
        attention_mask: (B, 1, T, T), non-zero where a key is visible.

    Returns:
        Context (B, T, D), and the probabilities (B, H, T, L + T) if `output_attentions`.
    """
    prefixes = active_prefixes(module)
    if not prefixes:
        own: tuple[torch.Tensor, torch.Tensor | None] = type(module).forward(
            module, hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
        )
        return own
    heads, width = module.num_attention_heads, module.attention_head_size
    asking = hidden_states if query_states is None else query_states
    flat = [
        module.transpose_for_scores(projection(states), heads)
        for projection, states in (
            (module.query_proj, asking),
            (module.key_proj, hidden_states),
            (module.value_proj, hidden_states),
        )
    ]
    terms = 1 + sum(kind in module.pos_att_type for kind in ("c2p", "p2c"))
    query, key, value = (states.unflatten(0, (-1, heads)) for states in flat)
    joined_query, joined_key, joined_value = join(prefixes, query, key, value)
    scores = joined_query @ joined_key.transpose(-1, -2) / math.sqrt(width * terms)
    if module.relative_attention:
        positions = module.pos_dropout(rel_embeddings)
        bias = module.disentangled_attention_bias(flat[0], flat[1], relative_pos, positions, terms)
        scores = scores + F.pad(bias.unflatten(0, (-1, heads)), (prefix_length(prefixes), 0))
    mask = widen_mask(attention_mask.bool(), prefixes, query, key.shape[2])
    assert mask is not None
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    shares = scores.softmax(dim=-1)
    if (observer := module.__dict__.get(OBSERVER)) is not None:
        observer(prefixes, shares)
    probabilities = module.dropout(shares)
    output = split_output(prefixes, (probabilities @ joined_value).transpose(1, 2))
    return output.flatten(2), probabilities if output_attentions else None
