"""Whether the output at position t is scored against the label at t + 1."""

from __future__ import annotations

from typing import Any

from torch import nn

# Language models whose own loss scores position t against the label at t.
_UNSHIFTED = ("XLNetLMHeadModel", "XLMWithLMHeadModel")


def config_shifts(config: Any) -> bool:
    """Whether a language model with this configuration predicts the next token; an encoder-decoder shifts its decoder's
    input itself."""
    return not getattr(config, "is_encoder_decoder", False)


def own_loss_shifts(model: nn.Module) -> bool:
    """Whether the loss that a transformers model computes itself is shifted: for the classes that transformers loads as
    causal language models, and for classes derived from them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) - set(_UNSHIFTED)
    return config_shifts(getattr(model, "config", None)) and any(one.__name__ in causal for one in type(model).__mro__)
