"""Which of a model's parameters an objective acts on."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import Parameter

from luthier.models.inspect import base_of


def base_and_trunk(model: Any) -> tuple[Any, Any]:
    """The transformers model inside PEFT's wrapper, and its pretrained part without the head."""
    base = base_of(model)
    return base, getattr(base, "base_model", base)


def trainable_parameters(model: nn.Module) -> dict[str, Parameter]:
    """Parameters that require a gradient, by name, in the model's order."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def block_parameters(model: nn.Module) -> dict[str, Parameter]:
    """Trainable parameters inside the transformer blocks: under an element of a module list of the trunk.

    Embeddings, poolers, heads and final norms are outside (RoAST, section 3). Of a PEFT model these are the adapter's
    parameters inside the blocks.
    """
    _, trunk = base_and_trunk(model)
    inside = {id(p) for m in trunk.modules() if isinstance(m, nn.ModuleList) for block in m for p in block.parameters()}
    return {n: p for n, p in trainable_parameters(model).items() if id(p) in inside}


def head_parameters(model: nn.Module) -> dict[str, Parameter]:
    """Trainable parameters outside the pretrained trunk, a PEFT model's `modules_to_save` included.

    What PEFT adds inside the trunk, and prompts, are not the head's.
    """
    base, trunk = base_and_trunk(model)
    in_base = {id(p) for p in base.parameters()} - {id(p) for p in trunk.parameters()}
    return {n: p for n, p in trainable_parameters(model).items() if id(p) in in_base}


def backbone_parameters(model: nn.Module) -> dict[str, Parameter]:
    """Trainable parameters that are not the head's."""
    head = head_parameters(model)
    return {n: p for n, p in trainable_parameters(model).items() if n not in head}
