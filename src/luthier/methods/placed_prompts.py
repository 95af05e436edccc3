"""Prompt methods of ours, whose prompt stands before the text or behind [CLS]."""

from __future__ import annotations

from typing import Any

from luthier.methods.prompt_method import check_insert
from luthier.peft_bridge.own_prompts import register_prompt_encoder
from luthier.peft_bridge.prompt_learning import install
from luthier.peft_bridge.registration import register_tuner


def register_placed_prompt(name: str, config_cls: Any, encoder_cls: Any) -> None:
    """Make such a method known to PEFT.

    Args:
        name: lower-case name of the adapter's type.
        config_cls: a `PromptLearningConfig` with the options of `luthier.methods.prompt_method.PlaceOptions`.
        encoder_cls: an `luthier.peft_bridge.own_prompts.OwnPromptEncoder`.
    """
    register_tuner(name, config_cls, encoder_cls)
    register_prompt_encoder(
        config_cls, encoder_cls, check=lambda config, model: check_insert(config.insert, model, config.task_type)
    )
    install()
