"""Folding: the prompt that a method's network makes becomes a plain PEFT prompt-tuning checkpoint, P <- Phi(P)."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PromptTuningConfig, get_peft_model_state_dict
from peft.config import PromptLearningConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.errors import ModelError
from luthier.peft_bridge.adapter_types import PROMPT_EMBEDDINGS
from luthier.peft_bridge.own_prompts import ENCODERS, OwnPromptEncoder, is_own_prompt
from luthier.storage.arrays import evaluating
from luthier.storage.files import reporting_failed_writes

# All that prompt methods have in common, but what says which of them it is and what state it is in.
_CARRIED = {f.name for f in fields(PromptLearningConfig)} - {"peft_type", "peft_version", "inference_mode"}


@dataclass(frozen=True)
class FoldedPrompt:
    """A plain PEFT prompt-tuning adapter.

    Attributes:
        config: of stock PEFT.
        state: `prompt_embeddings` (n, d), n prompt rows of the embeddings' width d, and the task head's weights.
    """

    config: PromptTuningConfig
    state: dict[str, Tensor]

    def save(self, directory: str | Path) -> None:
        """Write what `PeftModel.from_pretrained` of stock PEFT loads.

        Raises:
            WorkspaceError: the disk is full or the directory can't be written.
        """
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.state.items()}
        with reporting_failed_writes(Path(directory)):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.config.save_pretrained(str(directory))
            save_file(tensors, str(Path(directory) / SAFETENSORS_WEIGHTS_NAME), metadata={"format": "pt"})


def fold_prompt(
    model: PeftModel | str | Path, output_directory: str | Path | None = None, adapter_name: str = "default"
) -> FoldedPrompt:
    """Fold a prompt that a network makes into a plain one with equal logits.

    Source: Razdaibiedina et al., Findings of ACL 2023 (Residual Prompt Tuning), section 3: inference.

    Args:
        model: a `PeftModel`, which stays as it is, or the directory that its `save_pretrained` wrote; a directory
            is folded without loading the base model.
        output_directory: where the plain checkpoint goes; None writes nothing.
        adapter_name: which of several adapters.

    Raises:
        ModelError: the directory is not a whole adapter, the adapter has no such prompt, or its prompt stands behind
            [CLS].
    """
    read = _of_model if isinstance(model, PeftModel) else _stored
    config, encoder, state = read(model, adapter_name)
    if config.insert != "before_text":
        raise ModelError(
            "a prompt behind [CLS] can't be folded: a plain PEFT checkpoint, or an engine, puts it before the text",
            fix="serve it with `import luthier` and PEFT's from_pretrained, or tune with `insert: before_text`",
        )
    with evaluating(encoder), torch.no_grad():
        prompt = encoder.prompt().detach().clone()
    plain = PromptTuningConfig(inference_mode=True, **{name: copy(getattr(config, name)) for name in _CARRIED})
    heads = {name: tensor for name, tensor in state.items() if not name.startswith(encoder.stored_as)}
    folded = FoldedPrompt(plain, {PROMPT_EMBEDDINGS: prompt, **heads})
    if output_directory is not None:
        folded.save(output_directory)
    return folded


_Parts = tuple[Any, OwnPromptEncoder, dict[str, Tensor]]


def _of_model(model: Any, adapter_name: str) -> _Parts:
    if not is_own_prompt(config := model.peft_config.get(adapter_name)):
        raise ModelError(
            f"adapter {adapter_name!r} has no prompt that a network makes and can't be folded",
            fix=f"name one of the model's adapters: {', '.join(model.peft_config)}",
        )
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    return config, model.prompt_encoder[adapter_name], state


def _stored(directory: Any, adapter_name: str) -> _Parts:
    place = Path(directory)
    if adapter_name != "default" and (place / adapter_name).is_dir():
        place = place / adapter_name
    try:
        config = PeftConfig.from_pretrained(str(place))
        state = load_file(str(place / SAFETENSORS_WEIGHTS_NAME))
    except Exception as error:
        raise ModelError(
            f"this is not a whole adapter: {error}",
            where=str(place),
            fix="give the directory that save_pretrained wrote",
        ) from error
    if not is_own_prompt(config):
        raise ModelError("this adapter has no prompt that a network makes and can't be folded", where=str(place))
    encoder: Any = ENCODERS[type(config)](config, None)
    try:
        encoder.load_state_dict(encoder.own_state(state))
    except RuntimeError as error:
        raise ModelError(f"weights and configuration disagree: {error}", where=str(place)) from error
    return config, encoder, state
