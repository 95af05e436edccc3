"""Prompt methods that PEFT does not know by itself: which encoder runs the prompts of which configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft import PeftConfig
from torch import nn

ENCODERS: dict[type[PeftConfig], type[nn.Module]] = {}
CHECKS: dict[type[PeftConfig], Callable[[Any, nn.Module], None]] = {}


def register_prompt_encoder(
    config_cls: type[PeftConfig], encoder_cls: type[nn.Module], check: Callable[[Any, nn.Module], None]
) -> None:
    """Make PEFT run prompts of this configuration through this encoder.

    Args:
        config_cls: a `PromptLearningConfig` with the fields `freeze_dropout` and `insert` (before_text or after_cls).
        encoder_cls: built as `encoder_cls(config, token_embeddings)`; maps (B, n) row numbers to (B, n, d) vectors.
        check: called with a configuration and the base model; raises where they don't fit.
    """
    ENCODERS[config_cls] = encoder_cls
    CHECKS[config_cls] = check


def is_own_prompt(config: PeftConfig) -> bool:
    """Whether a configuration is that of a prompt method that PEFT does not know by itself."""
    return type(config) in ENCODERS
