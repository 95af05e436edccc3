"""Wrapping a model with a PEFT tuner, and its optimiser groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.methods.heads import head_modules


def wrap(model: Any, config: Any, context: MethodContext) -> Any:
    """`get_peft_model` with the task head among the trained modules; new parameters depend on the seed alone.

    Raises:
        ModelError: PEFT refuses the model.
    """
    from peft import get_peft_model

    if hasattr(config, "modules_to_save"):
        head = head_modules(model, context.task_type)
        config.modules_to_save = sorted({*(config.modules_to_save or []), *head}) or None
    if config.is_prompt_learning:
        _prepare_for_prompt(model, config, context)
    torch.manual_seed(context.seed)
    try:
        return get_peft_model(model, config)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        by_layers = hasattr(config, "target_modules")
        raise ModelError(
            f"{config.peft_type.value} can't be put on a {model.config.model_type} model: {error}",
            fix="name the layers with target_modules, or use lora" if by_layers else "use lora, bitfit or full",
        ) from error


def groups(*parts: tuple[list[tuple[str, nn.Parameter]], float, float]) -> list[dict[str, Any]]:
    """Optimiser groups: each part is (named parameters, learning rate, weight decay of its matrices).

    Biases, norms and single vectors are not decayed; empty groups are left out.
    """
    optimiser_groups = []
    for named, rate, decay in parts:
        matrices = [p for name, p in named if _is_matrix(name, p)]
        others = [p for name, p in named if not _is_matrix(name, p)]
        optimiser_groups += [
            {"params": params, "lr": rate, "weight_decay": weight_decay}
            for params, weight_decay in ((matrices, decay), (others, 0.0))
            if params
        ]
    return optimiser_groups


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that are trained."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _prepare_for_prompt(model: Any, config: Any, context: MethodContext) -> None:
    from peft.utils import PeftType

    from luthier.peft_bridge.prompt_learning import install
    from luthier.peft_bridge.prompt_placement import keep_prompt_beside_text

    install()
    keep_prompt_beside_text(model, context.task_type)
    if config.peft_type not in (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE):
        # PEFT reads these from the configuration's own names, which differ between architectures.
        config.token_dim = config.token_dim or model.get_input_embeddings().embedding_dim
        config.num_attention_heads = config.num_attention_heads or model.config.num_attention_heads
        config.num_layers = config.num_layers or model.config.num_hidden_layers


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    leaf = name.rpartition(".")[2]
    return parameter.ndim >= 2 and "bias" not in leaf and leaf != "gain"
