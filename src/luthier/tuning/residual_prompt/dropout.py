"""Training a prompt under a frozen model whose own dropout is off."""

from __future__ import annotations

from typing import Any

from torch import nn


def silence_dropout(model: nn.Module) -> None:
    """Make `model` run as in evaluation whenever it is put in training mode.

    Layers with gradient checkpointing stay in training mode themselves, since transformers checkpoints only then;
    the dropout modules inside them are off all the same.
    """
    if _quieten not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_quieten)


def _quieten(model: nn.Module, _inputs: Any) -> None:
    if model.training:
        for module in model.modules():
            module.training = bool(getattr(module, "gradient_checkpointing", False))
        model.training = False
