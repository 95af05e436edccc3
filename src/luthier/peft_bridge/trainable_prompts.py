"""Loading a prompt, or a prefix, to go on training it, which PEFT itself refuses."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PromptTuningConfig
from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
from peft.utils import PeftType

from luthier.errors import ModelError
from luthier.peft_bridge.own_prompts import is_own_prompt

_CAN_GO_ON = (PeftType.PROMPT_TUNING, PeftType.P_TUNING, PeftType.PREFIX_TUNING)


def load_trainable_prompt(
    model: Any, directory: str | Path, adapter_name: str = "default", config: PeftConfig | None = None
) -> PeftModel:
    """Load one of our prompts, or PEFT's prompt tuning, P-tuning or prefix tuning, and make it trainable.

    PEFT's checkpoints hold only the encoded prompt. So P-tuning goes on as plain prompt tuning from that prompt, and
    prefix tuning with a projection goes on without it; the logits are those of the checkpoint. A prompt of
    ours is stored with its network and goes on exactly.

    Args:
        model: the base model, or a `PeftModel` that gets one more adapter.
        directory: what `save_pretrained` wrote.
        adapter_name: what to call the adapter.
        config: in place of the one in `directory`.

    Raises:
        ModelError: the adapter is of a kind that can't go on.
    """
    config = _trainable(config or PeftConfig.from_pretrained(str(directory)), directory)
    # Built as for inference, so that no first prompt is drawn; what is loaded takes its place.
    config.inference_mode = True
    if isinstance(model, PeftModel):
        model.add_adapter(adapter_name, config)
        wrapped = model
    else:
        wrapped = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)(model, config, adapter_name)
    wrapped.load_adapter(str(directory), adapter_name, is_trainable=True, torch_device=str(_device(wrapped)))
    config.inference_mode = False
    wrapped.prompt_encoder[adapter_name].requires_grad_(True)
    wrapped.set_adapter(adapter_name)
    return wrapped


def _trainable(config: PeftConfig, directory: str | Path) -> PeftConfig:
    if config.peft_type not in _CAN_GO_ON and not is_own_prompt(config):
        raise ModelError(
            f"an adapter of type {config.peft_type.value} can't be loaded as a trainable prompt",
            where=str(directory),
            fix="load it with PeftModel.from_pretrained(base, directory, is_trainable=True)",
        )
    if config.peft_type == PeftType.P_TUNING:
        names = {f.name for f in fields(PromptTuningConfig)} - {"peft_type"}
        return PromptTuningConfig(**{k: v for k, v in vars(config).items() if k in names})
    if config.peft_type == PeftType.PREFIX_TUNING:
        config.prefix_projection = False
    return config


def _device(model: PeftModel) -> torch.device:
    return next(model.base_model.parameters()).device
