"""Trained keys and values in front of those of a transformers attention module ("prefixes").

How it works. transformers looks its attention function up by name at every call. `serve_prefixes(model)` switches a
model from `sdpa` or `eager` to a function of ours that asks the attention module which prefixes are active, puts them
in front of the module's keys and values, widens mask and position bias to match, and then calls the stock function.
Nothing else of the model changes: positions, caches and masks are built as if there were no prefix. The prefix never
enters a key/value cache; it is put in front of the full cached keys at every call, so decoding with a cache equals
decoding without. DeBERTa-v2, which does not look its attention function up, is served by
`luthier.models.layers.disentangled_prefix`.

    serve_prefixes(model, [attention])                 # once; attention: e.g. model.encoder.layer[0].attention.self
    add_provider(attention, provider)                  # any number; they stand side by side, in this order
    observe(attention, observer)                       # sees the shares that the prefixes take
    remove_provider(attention, provider)
    stop_serving(model)                                # the stock functions again

A provider is any callable `provider(attention_module) -> Sequence[KeyValuePrefix]`; it runs inside the attention call,
also when gradient checkpointing computes a layer anew, and returns an empty sequence while it has nothing to add. In
one softmax, prefix column j gets the score q k_j * scaling + log_weight: a log weight of 0 leaves the prefix as it is,
log(2) counts its columns twice, and minus infinity (weight 0) removes it exactly. Prefix columns are visible to every
query and get a position bias of zero (T5, DeBERTa).

Shapes: B examples, H heads, G key/value heads (G = H without grouped queries), T queries, S keys, L prefix length,
d head width.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

PROVIDERS = "luthier_prefix_providers"
OBSERVER = "luthier_prefix_observer"
NAMES = {"sdpa": "luthier_prefix_sdpa", "eager": "luthier_prefix_eager"}
STOCK = {ours: stock for stock, ours in NAMES.items()}


@dataclass(frozen=True)
class KeyValuePrefix:
    """Prefix of one attention module.

    Attributes:
        key: (B or 1, G, L, d), after any rotary embedding; cast to the dtype of the module's own keys.
        value: (B or 1, G, L, width of a value head).
        log_weight: added to the scores of all L columns; minus infinity removes them.
        query_gate: (B, T, 1) or None; a factor on key and value that differs between the queries. A factor that is
            the same for all queries of an example is cheaper multiplied into key and value beforehand.
    """

    key: torch.Tensor
    value: torch.Tensor
    log_weight: float = 0.0
    query_gate: torch.Tensor | None = None


PrefixProvider = Callable[[nn.Module], Sequence[KeyValuePrefix]]
PrefixObserver = Callable[[Sequence[KeyValuePrefix], torch.Tensor], None]


def add_provider(attention: nn.Module, provider: PrefixProvider) -> None:
    """Let `provider` put prefixes in front of this module's keys, behind those of earlier providers."""
    attention.__dict__.setdefault(PROVIDERS, []).append(provider)


def remove_provider(attention: nn.Module, provider: PrefixProvider) -> None:
    """Undo `add_provider`; a provider that is not there is no error."""
    providers = attention.__dict__.get(PROVIDERS, [])
    if provider in providers:
        providers.remove(provider)


def active_prefixes(attention: nn.Module) -> list[KeyValuePrefix]:
    """What the module's providers give now, without prefixes of weight 0."""
    return [
        prefix
        for provider in attention.__dict__.get(PROVIDERS, ())
        for prefix in provider(attention)
        if prefix.log_weight != -math.inf
    ]


def observe(attention: nn.Module, observer: PrefixObserver | None) -> None:
    """Let `observer` see how a served module's attention is shared out, or None to stop.

    At every call that has prefixes it gets them and the probabilities (B, H, T, L + S) without dropout, whose first
    columns are those of the prefixes. They are computed for it, at the cost of one more attention.
    """
    attention.__dict__.pop(OBSERVER, None)
    if observer is not None:
        attention.__dict__[OBSERVER] = observer


def register_attention() -> None:
    """Make the attention functions with prefixes known to transformers, once."""
    if NAMES["sdpa"] not in AttentionInterface._global_mapping:
        AttentionInterface.register(NAMES["sdpa"], _sdpa_with_prefixes)
        AttentionInterface.register(NAMES["eager"], _eager_with_prefixes)
        AttentionMaskInterface.register(NAMES["sdpa"], sdpa_mask)
        AttentionMaskInterface.register(NAMES["eager"], eager_mask)


def _sdpa_with_prefixes(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return _attend(sdpa_attention_forward, module, query, key, value, attention_mask, causal, **kwargs)


def _eager_with_prefixes(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    # Eager attention reads causality from the mask alone.
    return _attend(_eager_function(module), module, query, key, value, attention_mask, False, **kwargs)


def _eager_function(module: nn.Module) -> Any:
    """The eager attention of the file that defines the module's class."""
    for cls in type(module).__mro__:
        found = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if found is not None:
            return found
    raise ValueError(f"{type(module).__name__} has no eager attention; load the model with attn_implementation='sdpa'")


def _attend(
    stock: Any,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    causal: bool,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    prefixes = active_prefixes(module)
    if not prefixes:
        return stock(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("scaling") is None:
        kwargs["scaling"] = query.shape[-1] ** -0.5
    if attention_mask is None and causal and query.shape[2] > 1:
        # Without a mask the stock function lines the first query up with the first key, which is a prefix column here.
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        attention_mask = attention_mask[None, None]
    mask = None if attention_mask is None else attention_mask[..., : key.shape[2]]
    mask = widen_mask(mask, prefixes, query, key.shape[2])
    bias = kwargs.get("position_bias")
    if bias is not None:
        kwargs["position_bias"] = F.pad(bias, (prefix_length(prefixes), 0))
    joined = join(prefixes, query, key, value)
    if (observer := module.__dict__.get(OBSERVER)) is not None:
        observer(prefixes, _probabilities(*joined[:2], mask, kwargs["scaling"], kwargs.get("position_bias")))
    output, weights = stock(module, *joined, mask, **kwargs)
    return split_output(prefixes, output), weights


def widen_mask(
    mask: torch.Tensor | None, prefixes: Sequence[KeyValuePrefix], query: torch.Tensor, keys: int
) -> torch.Tensor | None:
    """(..., T, S) -> (..., T, L + S): prefix columns are visible, and weighed where a prefix has a log weight.

    A boolean mask stays boolean, and no mask stays none, as long as all log weights are 0.
    """
    length = prefix_length(prefixes)
    if all(prefix.log_weight == 0 for prefix in prefixes):
        if mask is None:
            return None
        return F.pad(mask, (length, 0), value=True if mask.dtype == torch.bool else 0.0)
    columns = torch.cat([query.new_full((prefix.key.shape[2],), prefix.log_weight) for prefix in prefixes])
    if mask is None:
        mask = query.new_zeros(1, 1, query.shape[2], keys)
    elif mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    return torch.cat([columns.expand(*mask.shape[:-1], length), mask], dim=-1)


def prefix_length(prefixes: Sequence[KeyValuePrefix]) -> int:
    """Columns that the prefixes take together."""
    return sum(prefix.key.shape[2] for prefix in prefixes)


def join(
    prefixes: Sequence[KeyValuePrefix], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Put the prefixes in front of key and value.

    A factor that differs between queries can't be multiplied into keys and values. Such a prefix gets head dimensions
    of its own: the query repeats itself there, times its factor, where text keys are zero; so the scores are those of
    the multiplied keys, and `split_output` finds the prefix's share of the values apart and multiplies it.

    Args:
        query: (B, H, T, d).
        key: (B, G, S, d).
        value: (B, G, S, width of a value head).

    Returns:
        The three with L + S keys, and (1 + prefixes with a query gate) times as wide heads.
    """
    gates = [prefix.query_gate for prefix in prefixes if prefix.query_gate is not None]
    slots, slot = 1 + len(gates), 0
    keys, values = [], []
    for prefix in prefixes:
        slot += prefix.query_gate is not None
        place = slot if prefix.query_gate is not None else 0
        keys.append(_at_slot(prefix.key.to(key.dtype), place, slots, len(query)))
        values.append(_at_slot(prefix.value.to(value.dtype), place, slots, len(query)))
    if gates:
        query = torch.cat([query, *(query * gate[:, None].to(query.dtype) for gate in gates)], dim=-1)
    key = torch.cat([*keys, _at_slot(key, 0, slots, len(query))], dim=2)
    value = torch.cat([*values, _at_slot(value, 0, slots, len(query))], dim=2)
    return query, key, value


def split_output(prefixes: Sequence[KeyValuePrefix], output: torch.Tensor) -> torch.Tensor:
    """(B, T, H, slots d) -> (B, T, H, d): the shares of prefixes with a query gate, each times its factor."""
    gates = [prefix.query_gate for prefix in prefixes if prefix.query_gate is not None]
    if not gates:
        return output
    total, *shares = output.chunk(1 + len(gates), dim=-1)
    for gate, share in zip(gates, shares, strict=True):
        total = torch.addcmul(total, share, gate[:, :, None].to(share.dtype))
    return total


def _probabilities(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float, bias: torch.Tensor | None
) -> torch.Tensor:
    """(B, H, T, d), (B, G, S, d) -> (B, H, T, S)."""
    scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).transpose(-1, -2) * scaling
    scores = scores if bias is None else scores + bias
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1)


def _at_slot(states: torch.Tensor, slot: int, slots: int, examples: int) -> torch.Tensor:
    width = states.shape[-1]
    if slots > 1:
        states = F.pad(states, (slot * width, (slots - 1 - slot) * width))
    return states.expand(examples, -1, -1, -1)
