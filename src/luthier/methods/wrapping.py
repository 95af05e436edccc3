"""Wrapping a model with a PEFT tuner, and its optimiser groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from luthier.errors import ModelError, a_model
from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.heads import head_modules
from luthier.methods.trial import FAILURES, first_failure


def wrap(model: Any, config: Any, context: MethodContext, method: TuningMethod | None = None) -> Any:
    """`get_peft_model` with the task head among the trained modules; new parameters depend on the seed alone.

    Args:
        method: that errors name, and whose settings they point to; where it is None, PEFT's type and configuration.

    Raises:
        ModelError: PEFT refuses the model, or the model runs and does not with what was put on it.
    """
    from peft import get_peft_model

    if hasattr(config, "modules_to_save"):
        head = head_modules(model, context.task_type)
        config.modules_to_save = sorted({*(config.modules_to_save or []), *head}) or None
    name, kind = method.name if method else config.peft_type.value, model.config.model_type
    runs = first_failure(model, context.task_type) is None
    try:
        if config.is_prompt_learning:
            _prepare_for_prompt(model, config, context)
        torch.manual_seed(context.seed)
        wrapped = get_peft_model(model, config)
    except FAILURES as error:
        by_layers = hasattr(method or config, "target_modules")
        raise ModelError(
            f"{name} can't be put on {a_model(kind)}: {error}",
            fix="name the layers with target_modules, or use lora" if by_layers else "use lora, bitfit or full",
        ) from error
    if runs and (failure := first_failure(wrapped, context.task_type)) is not None:
        raise ModelError(
            f"{a_model(kind)} does not run with {name}: {failure}", fix="use lora, bitfit or full"
        ) from failure
    return wrapped


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
    from luthier.peft_bridge.prompt_learning import install
    from luthier.peft_bridge.prompt_placement import keep_prompt_beside_text, rows_before_text

    install()
    rows = rows_before_text(config)
    keep_prompt_beside_text(model, context.task_type, rows)
    if rows:
        # PEFT reads these from the configuration's own names, which differ between architectures.
        config.token_dim = config.token_dim or model.get_input_embeddings().embedding_dim
        config.num_attention_heads = config.num_attention_heads or model.config.num_attention_heads
        config.num_layers = config.num_layers or model.config.num_hidden_layers


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    leaf = name.rpartition(".")[2]
    return parameter.ndim >= 2 and "bias" not in leaf and leaf != "gain"
