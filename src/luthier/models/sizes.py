"""Whether the sizes that a configuration claims can be those of its weights. Nothing here imports torch.

A model is built before its weights are read: a configuration of a few bytes could ask for any amount of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import ModelError

_LAYERS = frozenset(
    (
        "num_hidden_layers",
        "num_layers",
        "n_layer",
        "n_layers",
        "encoder_layers",
        "decoder_layers",
        "num_decoder_layers",
        "num_encoder_layers",
    )
)
_WIDTHS = frozenset(
    (
        "vocab_size",
        "hidden_size",
        "d_model",
        "n_embd",
        "dim",
        "embedding_size",
        "intermediate_size",
        "d_ff",
        "d_inner",
        "d_embed",
        "hidden_dim",
        "ffn_dim",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "n_inner",
        "type_vocab_size",
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "num_key_value_heads",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "head_dim",
        "d_kv",
    )
)
_OTHERS = frozenset(
    (
        "max_position_embeddings",
        "n_positions",
        "n_ctx",
        "num_labels",
        "num_experts",
        "num_local_experts",
        "relative_attention_num_buckets",
        "r",
        "num_virtual_tokens",
        "token_dim",
        "encoder_hidden_size",
    )
)
_MOST_LAYERS, _MOST = 10_000, 1 << 27
# New heads, and weights that layers share, make a model larger than its file; more than this is a lie.
_SLACK, _SMALL = 64, 10_000_000
_TABLE = (("vocab_size",), ("hidden_size", "d_model", "n_embd", "dim"))
_STACK = (
    ("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    ("hidden_size", "d_model", "n_embd", "dim"),
    ("intermediate_size", "d_ff", "n_inner", "hidden_dim"),
)
_FIX = "use another copy of the model: no such model can be built"


@dataclass(frozen=True)
class Stored:
    """What weight files hold.

    Attributes:
        tensors: how many.
        numbers: how many in all of them.
    """

    tensors: int
    numbers: int


def check_sizes(config: dict[str, Any], path: Path) -> None:
    """Refuse sizes that no model has: text, fractions, negative or huge numbers.

    Raises:
        ModelError: names the key.
    """
    for trail, key, value in _sizes(config):
        limit = _MOST_LAYERS if key in _LAYERS else _MOST
        where = f"{path}, key {trail}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError(f"`{key}` is {_shown(value)}, and must be a whole number", where=where, fix=_FIX)
        if not 0 <= value <= limit:
            raise ModelError(f"`{key}` is {_shown(value)}, and must be from 0 to {limit:,}", where=where, fix=_FIX)


def check_sizes_of_weights(config: dict[str, Any], path: Path, stored: Stored) -> None:
    """Refuse sizes that are far beyond what the weight files hold. Takes what `check_sizes` let pass.

    Raises:
        ModelError: names the key.
    """
    for trail, key, value in _sizes(config):
        if key in _LAYERS and value > max(stored.tensors, 1):
            what, has = f"`{key}` is {value:,}", f"{stored.tensors:,} tensors"
        elif key in _WIDTHS and value > max(stored.numbers, 1):
            what, has = f"`{key}` is {value:,}", f"{stored.numbers:,} numbers"
        else:
            continue
        raise ModelError(f"{what}, but the weights hold {has}", where=f"{path}, key {trail}", fix=_FIX)
    for names in (_TABLE, _STACK):
        given = [next((n for n in either if isinstance(config.get(n), int)), None) for either in names]
        product = 1
        for name in given:
            product *= config[name] if name else 1
        if all(given) and product > _SLACK * stored.numbers + _SMALL:
            keys = " x ".join(f"`{name}`" for name in given)
            what = f"{keys} is {product:,}, but the weights hold {stored.numbers:,} numbers"
            raise ModelError(what, where=str(path), fix=_FIX)


def _sizes(value: Any, trail: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{trail}.{key}" if trail else str(key)
            if key in _LAYERS or key in _WIDTHS or key in _OTHERS:
                each = inner if isinstance(inner, list) else [inner]
                yield from ((here, str(key), one) for one in each if one is not None)
            else:
                yield from _sizes(inner, here)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _sizes(inner, f"{trail}[{position}]")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
