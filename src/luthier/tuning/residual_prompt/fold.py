"""Folding the network into the prompt: P <- Phi(P), written as a plain PEFT prompt-tuning checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor

from luthier.errors import ModelError
from luthier.methods.export import Exported, Saved, prompt
from luthier.peft_bridge.adapter_types import PROMPT_EMBEDDINGS
from luthier.peft_bridge.folded_prompt import FoldedPrompt
from luthier.tuning.residual_prompt.encoder import (
    ResidualPromptConfig,
    ResidualPromptEncoder,
    encoder_of,
)


def fold_prompt(
    model: PeftModel | str | Path, output_directory: str | Path | None = None, adapter_name: str = "default"
) -> FoldedPrompt:
    """Fold a residual prompt into a plain one with equal logits (paper, section 3: inference).

    Args:
        model: a `PeftModel`, which stays as it is, or the directory that its `save_pretrained` wrote; a directory
            is folded without loading the base model.
        output_directory: where the plain checkpoint goes; None writes nothing.
        adapter_name: which of several adapters.

    Raises:
        ModelError: the directory is not a whole residual-prompt checkpoint, the adapter is of another kind, or its
            prompt stands behind [CLS].
    """
    config, encoder, state = (
        _of_model(model, adapter_name) if isinstance(model, PeftModel) else _stored(model, adapter_name)
    )
    if config.insert != "before_text":
        raise ModelError(
            "a prompt behind [CLS] can't be folded: a plain PEFT checkpoint, or an engine, puts it before the text",
            fix="serve it with `import luthier` and PEFT's from_pretrained, or tune with `insert: before_text`",
        )
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        prompt = encoder.prompt().detach().clone()
    encoder.train(was_training)
    heads = {name: tensor for name, tensor in state.items() if not name.startswith(ResidualPromptEncoder.stored_as)}
    folded = FoldedPrompt.of(config, prompt, heads)
    if output_directory is not None:
        folded.save(output_directory)
    return folded


_Parts = tuple[ResidualPromptConfig, ResidualPromptEncoder, dict[str, Tensor]]


def _of_model(model: PeftModel, adapter_name: str) -> _Parts:
    config = model.peft_config.get(adapter_name)
    if not isinstance(config, ResidualPromptConfig):
        raise ModelError(
            f"adapter {adapter_name!r} is not a residual prompt and can't be folded",
            fix=f"name one of the model's adapters: {', '.join(model.peft_config)}",
        )
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    return config, encoder_of(model, adapter_name), state


def _stored(directory: str | Path, adapter_name: str) -> _Parts:
    place = Path(directory)
    if adapter_name != "default" and (place / adapter_name).is_dir():
        place = place / adapter_name
    try:
        config = PeftConfig.from_pretrained(str(place))
        state = load_file(str(place / SAFETENSORS_WEIGHTS_NAME))
    except Exception as error:
        raise ModelError(
            f"this is not a whole residual-prompt checkpoint: {error}",
            where=str(place),
            fix="give the directory that save_pretrained wrote",
        ) from error
    if not isinstance(config, ResidualPromptConfig):
        raise ModelError("this adapter is not a residual prompt and can't be folded", where=str(place))
    encoder = ResidualPromptEncoder(config, None)
    try:
        encoder.load_state_dict(encoder.own_state(state))
    except RuntimeError as error:
        raise ModelError(f"weights and configuration disagree: {error}", where=str(place)) from error
    return config, encoder, state


def exported_prompt(state: dict[str, Tensor], config: dict[str, Any], saved: Saved) -> Exported:
    """The folded prompt of a saved adapter. See `luthier.methods.export.export_prompt`."""
    return prompt(fold_prompt(saved.folder).state[PROMPT_EMBEDDINGS])
