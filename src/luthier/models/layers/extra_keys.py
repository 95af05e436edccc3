"""Extra keys and values, an example its own, for a layer's attention in any model of transformers.

A layer is called with the extra keys and values as one more keyword argument, which the model hands down to its
attention function. So gradient checkpointing recomputes with them, and nothing has to be cleared afterwards.

Shapes: B examples, t extra positions, H key-value heads, c head width, Q queries, K keys.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ARGUMENT = "instance_prompt_key_values"
_PREFIX = "instance_prompt_"
_STOCK = ("sdpa", "eager")
_PROJECTIONS = (("key", "value"), ("k_proj", "v_proj"), ("k", "v"), ("k_lin", "v_lin"), ("key_proj", "value_proj"))


def find_projections(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The key and value projections of a layer's self-attention.

    Raises:
        ValueError: it has none of its own, does not hand keyword arguments down, or does not look its attention
            function up, so that what is handed down would do nothing.
    """
    for part in layer.modules() if _hands_down(type(layer).forward) else ():
        for key, value in _PROJECTIONS:
            if isinstance(getattr(part, key, None), nn.Linear) and isinstance(getattr(part, value, None), nn.Linear):
                if not hasattr(sys.modules[type(part).__module__], "ALL_ATTENTION_FUNCTIONS"):
                    raise ValueError(
                        f"insertion 'key_value' does nothing in {type(part).__name__}, which does not call "
                        "transformers' attention interface: use 'add' or 'replace'"
                    )
                return getattr(part, key), getattr(part, value)
    raise ValueError(
        f"insertion 'key_value' needs key and value projections of their own, which {type(layer).__name__} "
        "does not have: use 'add' or 'replace'"
    )


def _hands_down(forward: Callable[..., Any]) -> bool:
    """Whether a layer takes any keyword arguments, and gives them on, as far as its source is there to tell."""
    more = [p.name for p in inspect.signature(forward).parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    try:
        source = inspect.getsource(inspect.unwrap(forward))
    except (OSError, TypeError):
        return bool(more)
    return bool(more) and source.count(f"**{more[0]}") > 1


def project(layer: nn.Module, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2 t, d) -> keys of the first t and values of the last t, each (B, t, H c)."""
    keys, values = vectors.chunk(2, 1)
    key, value = find_projections(layer)
    return key(keys), value(values)


def install(config: Any) -> None:
    """Make the attention of a model take extra keys and values; without them it does what it did.

    Raises:
        ValueError: its attention is neither sdpa nor eager.
    """
    stock = config._attn_implementation
    if stock.startswith(_PREFIX):
        return
    if stock not in _STOCK:
        raise ValueError(f"insertion 'key_value' works with attention {' or '.join(_STOCK)}, not with {stock!r}")
    AttentionInterface.register(_PREFIX + stock, _with_extras(stock))
    AttentionMaskInterface.register(_PREFIX + stock, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    config._attn_implementation = _PREFIX + stock


def uninstall(config: Any) -> None:
    """Give the model the attention back that it had."""
    config._attn_implementation = config._attn_implementation.removeprefix(_PREFIX)


def _with_extras(stock: str) -> Callable[..., Any]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        if (extras := kwargs.pop(ARGUMENT, None)) is not None:
            keys, values = (_heads(extra, key) for extra in extras)
            attention_mask = _extended_mask(module, query, key, attention_mask, keys.shape[2])
            key, value = torch.cat([keys, key], 2), torch.cat([values, value], 2)
            if kwargs.get("position_bias") is not None:
                kwargs["position_bias"] = nn.functional.pad(kwargs["position_bias"], (keys.shape[2], 0))
        return _stock_function(stock, module)(module, query, key, value, attention_mask, **kwargs)

    return attention


def _stock_function(stock: str, module: nn.Module) -> Callable[..., Any]:
    if stock == "eager":
        function: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        return function
    return ALL_ATTENTION_FUNCTIONS[stock]


def _heads(projected: Tensor, key: Tensor) -> Tensor:
    """(B, t, H c) -> (B, H, t, c)."""
    return projected.view(*projected.shape[:2], key.shape[1], key.shape[3]).transpose(1, 2).to(key.dtype)


def _extended_mask(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, extra: int) -> Tensor | None:
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:
        if queries == 1 or not getattr(module, "is_causal", False):
            return None
        mask = torch.ones(queries, keys, dtype=torch.bool, device=key.device).tril(keys - queries)[None, None]
    visible = torch.ones if mask.dtype == torch.bool else torch.zeros
    return torch.cat([visible(*mask.shape[:-1], extra, dtype=mask.dtype, device=mask.device), mask], -1)
