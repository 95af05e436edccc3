"""Makes the attention modules of a model ask for prefixes. See `luthier.models.layers.attention_prefix`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from torch import nn

from luthier.models.layers.attention_prefix import NAMES, STOCK, register_attention
from luthier.models.layers.disentangled_prefix import is_disentangled, serve_disentangled, stop_disentangled


def serve_prefixes(model: nn.Module, attentions: Iterable[nn.Module]) -> None:
    """Make the given attention modules of a model ask their providers. Calling it again changes nothing.

    Args:
        model: any transformers model with `sdpa` or `eager` attention; its weights and results stay as they are.
        attentions: the modules that make the attention call (`BertSelfAttention`, `LlamaAttention`, ...).

    Raises:
        ValueError: a module does not look its attention function up, or the model uses another implementation.
    """
    looking_up = []
    for attention in attentions:
        if is_disentangled(attention):
            serve_disentangled(attention)
        elif hasattr(sys.modules[type(attention).__module__], "ALL_ATTENTION_FUNCTIONS"):
            looking_up.append(attention)
        else:
            raise ValueError(
                f"{type(attention).__name__} does not call transformers' attention interface, so that no prefix can be "
                "put in front of its keys and values"
            )
    if looking_up:
        register_attention()
        for config in _configs(model):
            _switch(config)


def stop_serving(model: nn.Module) -> None:
    """Give all parts of the model their stock attention back; providers stay where they are, unasked."""
    for module in model.modules():
        stop_disentangled(module)
    for config in _configs(model):
        if config._attn_implementation in STOCK:
            config._attn_implementation_internal = STOCK[config._attn_implementation]


def is_served(attention: nn.Module) -> bool:
    """Whether the module asks its providers, so that a later switch of the implementation can be noticed."""
    if is_disentangled(attention):
        return "forward" in attention.__dict__
    config: Any = getattr(attention, "config", None)
    return config is not None and config._attn_implementation in STOCK


def _switch(config: Any) -> None:
    name = config._attn_implementation
    if name in STOCK or name is None:
        return
    if name not in NAMES:
        raise ValueError(
            f"prefixes work with attn_implementation 'sdpa' or 'eager', but the model uses {name!r}; "
            "load it with attn_implementation='sdpa'"
        )
    config._attn_implementation_internal = NAMES[name]


def _configs(model: nn.Module) -> list[Any]:
    """The configurations of the model's parts, each once: an encoder-decoder's halves have their own."""
    found = {id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), "_attn_implementation")}
    return list(found.values())
