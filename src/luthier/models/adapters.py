"""What a saved adapter is, and which base it belongs on."""

from __future__ import annotations

from pathlib import Path

from luthier.models.card import ModelCard
from luthier.models.settings import ModelSettings

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def is_adapter(directory: Path) -> bool:
    """Whether a saved directory holds an adapter rather than a full model."""
    return (directory / ADAPTER_CONFIG).is_file()


def base_settings(card: ModelCard, settings: ModelSettings) -> ModelSettings:
    """Settings for the base that a card names; all but what names a model is taken from `settings`."""
    return settings.model_copy(update={"reference": card.base, "revision": None, "gguf_file": card.base_gguf_file})
