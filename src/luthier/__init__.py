"""Luthier sets pretrained language models up for their work."""

from __future__ import annotations

from luthier._lazy import lazy_names
from luthier._peft_import import watch_peft

__version__ = "0.1.0"

_HOMES = {
    "run": "luthier.runner",
    "load_recipe": "luthier.recipe",
    "load": "luthier.models",
    "predict": "luthier.prediction",
    "embed": "luthier.embedding",
}
__all__ = ["__version__", *_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

watch_peft()
