"""Prompt methods that PEFT does not know by itself: which encoder runs the prompts of which configuration."""

from __future__ import annotations

from peft import PeftConfig
from torch import nn

ENCODERS: dict[type[PeftConfig], type[nn.Module]] = {}


def register_prompt_encoder(config_cls: type[PeftConfig], encoder_cls: type[nn.Module]) -> None:
    """Make PEFT run prompts of this configuration through this encoder.

    Args:
        config_cls: a `PromptLearningConfig` with the field `freeze_dropout`.
        encoder_cls: built as `encoder_cls(config, token_embeddings)`; maps (B, n) row numbers to (B, n, d) vectors.
    """
    ENCODERS[config_cls] = encoder_cls


def is_own_prompt(config: PeftConfig) -> bool:
    """Whether a configuration is that of a prompt method that PEFT does not know by itself."""
    return type(config) in ENCODERS
