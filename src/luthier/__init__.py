"""Luthier sets pretrained language models up for their work."""

from __future__ import annotations

from luthier._lazy import lazy_names
from luthier._version import __version__
from luthier.peft_bridge.import_hook import watch_peft

_HOMES = {
    "run": "luthier.api",
    "load_recipe": "luthier.recipe",
    "load": "luthier.models",
    "predict": "luthier.prediction",
    "embed": "luthier.prediction",
}
__all__ = ["__version__", *_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

watch_peft()
