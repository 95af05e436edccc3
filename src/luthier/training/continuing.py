"""Training on from a saved adapter, with the method that made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.errors import ModelError, RecipeError
from luthier.methods.heads import freeze_head, head_parameters
from luthier.models.adapters import base_settings, is_adapter
from luthier.models.artifacts import load_artifact
from luthier.models.card import ModelCard, read_card
from luthier.models.head_kinds import peft_task_type
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.stages.base import StageInputs
from luthier.tasks.base import settings_class, task_named
from luthier.training.same_method import check_same_method, value_text

if TYPE_CHECKING:
    from luthier.training.preparing import Prepared
    from luthier.training.supervised_settings import SupervisedSettings


def continued_model(stage: SupervisedSettings, inputs: StageInputs, prepared: Prepared) -> tuple[Any, StageInputs]:
    """The saved adapter on its base, ready to be trained on.

    Returns:
        The model, and the stage's inputs with the adapter's base as their model, since what is saved belongs to that.

    Raises:
        RecipeError, ModelError: as `check_continues`, or the adapter can't be loaded.
    """
    folder, card = check_continues(stage, inputs, prepared)
    model, _, _ = load_artifact(folder, trainable=True, settings=inputs.model)
    if not stage.method.supports_gradient_checkpointing:
        model.get_base_model().supports_gradient_checkpointing = False
    if not stage.train_head:
        freeze_head(model, head_parameters(model.get_base_model(), peft_task_type(prepared.head)))
    return model, inputs.with_model(base_settings(card, inputs.model))


def with_saved_head(stage: SupervisedSettings, inputs: StageInputs) -> SupervisedSettings:
    """The stage with the head settings of the adapter that it trains on, which its head was made and is loaded with.

    Raises:
        RecipeError: the stage names others.
    """
    source = resolve(inputs.model) if stage.continue_adapter and not inputs.stands_in else None
    if source is None or source.kind != "artifact" or source.path is None or not is_adapter(source.path):
        return stage
    card = read_card(source.path)
    settings = task_named(card.schema).head_settings if card.schema else ""
    if not settings:
        return stage
    theirs = dict(card.head_settings or {})
    defaults = {name: field.default for name, field in settings_class(settings).model_fields.items()}
    other = {name: theirs.get(name, defaults.get(name)) for name in stage.head}
    other = {name: value for name, value in other.items() if value != stage.head[name]}
    if other:
        told = ", ".join(
            f"{name} {value_text(value)} and not {value_text(stage.head[name])}" for name, value in other.items()
        )
        raise RecipeError(
            f"the adapter's head was made with {told}, and stays as it is while it is trained on",
            where=str(source.path),
            fix="leave `head` out, which keeps the settings that the head was made with",
        )
    return stage.model_copy(update={"head": theirs})


def check_continues(stage: SupervisedSettings, inputs: StageInputs, prepared: Prepared) -> tuple[Path, ModelCard]:
    """Refuse to train on from what is not an adapter of the stage's method for the stage's labels.

    Returns:
        The adapter's folder and card.

    Raises:
        RecipeError: the method, its settings or the labels differ from those that the adapter was made with.
        ModelError: the model is no adapter.
    """
    folder, card = adapter_to_continue(stage, inputs.model)
    _check_head(prepared, card, str(folder))
    return folder, card


def adapter_to_continue(stage: SupervisedSettings, model: ModelSettings) -> tuple[Path, ModelCard]:
    """The folder and the card of a saved adapter that the stage's method may go on from.

    Raises:
        RecipeError: the method or its settings differ from those that the adapter was made with.
        ModelError: the model is no adapter.
    """
    source = resolve(model)
    if source.kind != "artifact" or source.path is None or not is_adapter(source.path):
        raise ModelError(
            "`continue_adapter` goes on from an adapter that Luthier tuned, and this is a whole model",
            where=model.reference,
            fix="leave `continue_adapter` out, or name the folder of a `tune` stage whose method makes an adapter",
        )
    card = read_card(source.path)
    check_same_method(stage.method, card.method, str(source.path))
    return source.path, card


def without_networks(model: Any) -> None:
    """Make a new adapter as it is when it comes back from disk: PEFT stores what the networks of P-tuning and prefix
    tuning gave, and not the networks."""
    for name, encoder in getattr(model, "prompt_encoder", {}).items():
        config = model.peft_config[name]
        width = encoder.embedding.embedding_dim
        if hasattr(encoder, "transform"):
            width = 2 * config.num_layers * config.token_dim
        elif not hasattr(encoder, "mlp_head"):
            continue
        rows, weight = encoder.embedding.num_embeddings, encoder.embedding.weight
        plain = nn.Module()
        plain.embedding = nn.Embedding(rows, width, device=weight.device, dtype=weight.dtype)
        model.prompt_encoder[name] = plain


def _check_head(prepared: Prepared, card: ModelCard, where: str) -> None:
    labels, regression = list(prepared.task.labels), prepared.regression
    outputs = card.labels if prepared.task.form is None and labels and not regression else labels
    if (prepared.head, regression, labels) != (card.head, card.regression, outputs):
        raise RecipeError(
            f"the adapter was trained for {_told(card.head, card.labels)}, the data ask for "
            f"{_told(prepared.head, labels)}",
            where=where,
            fix="train on with data of the same labels, in the order that `data.labels` gives them, or start afresh "
            f"from {card.base}",
        )


def _told(head: str, labels: list[str] | None) -> str:
    named = f" of {', '.join(labels[:6])}{', …' if len(labels) > 6 else ''}" if labels else ""
    return head.replace("_", " ") + named
