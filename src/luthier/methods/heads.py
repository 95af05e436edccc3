"""The task head of a model: what sits on top of the pretrained body and is trained under every method."""

from __future__ import annotations

from typing import Any

from torch import nn

from luthier.errors import RecipeError
from luthier.settings import Settings

# In the names of parameters that PEFT trains and saves beside its own.
HEAD_MARK = ".modules_to_save."
LANGUAGE_MODEL_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")


def head_modules(model: Any, task_type: str) -> list[str]:
    """Names of the modules that make up the task head; none for language models, whose head is pretrained.

    They are the parts of the model outside its body, and those inside it that loading had to initialise anew. So
    BERT's pooler, which sits in the body, is frozen with it where the checkpoint brings one, and is part of the head
    where it does not.
    """
    if task_type in LANGUAGE_MODEL_TASKS:
        return []
    outside = [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]
    new = [name.rpartition(".")[0] for name in getattr(model, "luthier_new_parameters", ())]
    inside = [_below(name, model.base_model_prefix) for name in new if name.split(".")[0] not in outside]
    return outside + sorted(set(inside))


def _below(name: str, prefix: str) -> str:
    """bert.pooler.dense -> bert.pooler: the part of the body that a new parameter belongs to."""
    parts = name.split(".")
    return ".".join(parts[:2] if parts[0] == prefix else parts[:1])


def train_only(model: nn.Module, names: list[str]) -> None:
    """Freeze everything but the named modules."""
    model.requires_grad_(False)
    for name in names:
        model.get_submodule(name).requires_grad_(True)


def head_parameters(model: Any, task_type: str) -> list[nn.Parameter]:
    """The parameters of the task head.

    Raises:
        RecipeError: the model has none.
    """
    parameters = [p for name in head_modules(model, task_type) for p in model.get_submodule(name).parameters()]
    if not parameters:
        raise RecipeError("a language model has no task head that could be frozen", fix="leave `train_head` out")
    return parameters


def check_head_rate(method: Settings, task_type: str, *, trained: bool) -> None:
    """Refuse a rate of the head, where a method has that setting, if no head is trained.

    Args:
        method: the tuning method.
        task_type: PEFT's task type of the model.
        trained: whether the head is trained where there is one.

    Raises:
        RecipeError: the rate differs from the method's own.
    """
    name = "head_learning_rate"
    if (trained and task_type not in LANGUAGE_MODEL_TASKS) or name not in type(method).model_fields:
        return
    if method.changed(name):
        why = "with `train_head: false`" if not trained else "on a language model, which has no task head"
        raise RecipeError(f"`{name}` would have no effect {why}", fix="leave it out")


def freeze_head(model: Any, parameters: list[nn.Parameter]) -> None:
    """Leave the task head as it is, and the copy of it that PEFT trains and saves.

    Raises:
        RecipeError: nothing is left to train.
    """
    for parameter in parameters:
        parameter.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if HEAD_MARK in name:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise RecipeError("without the task head nothing is trained", fix="leave `train_head: false` out")
