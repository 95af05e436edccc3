"""What a saved adapter is, and which base it belongs on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from luthier.errors import ModelError, RecipeError
from luthier.models.card import ModelCard
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.secrets import expand, references

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def is_adapter(directory: Path) -> bool:
    """Whether a saved directory holds an adapter rather than a full model."""
    return (directory / ADAPTER_CONFIG).is_file()


def base_settings(card: ModelCard, settings: ModelSettings) -> ModelSettings:
    """Settings for the base that a card names; all but what names a model is taken from `settings`.

    Raises:
        ModelError: the base is named by an environment variable that is not set, or that names another model.
    """
    named = {"reference": _filled_in(card), "revision": None, "gguf_file": card.base_gguf_file}
    return settings.model_copy(update=named)


def _filled_in(card: ModelCard) -> str:
    """The base's reference, with the environment's part in it filled in.

    A card is somebody else's text: it may not send a variable's value to the hub. Only who knows the whole id can have
    written its fingerprint.
    """
    if not references(card.base):
        return card.base
    try:
        reference = expand(card.base)
    except RecipeError as error:
        raise ModelError(f"the adapter's base is {card.base}: {error.what}", fix=error.fix) from error
    source = resolve(str(reference))
    whole = f"{source.hub_id}@{source.revision}"
    if source.kind == "hub" and hashlib.sha256(whole.encode()).hexdigest() != card.base_fingerprint:
        raise ModelError(
            f"{card.base} is not the base that the adapter was trained on",
            where=card.base,
            fix="set the variable to what it was in training",
        )
    return str(reference)
