"""Predictions and vectors of finished runs, for files and for texts at hand."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "predict": "luthier.prediction.texts",
    "predict_file": "luthier.prediction.texts",
    "predict_texts": "luthier.prediction.texts",
    "write_predictions": "luthier.prediction.writing",
    "extract": "luthier.prediction.extracting",
    "embed": "luthier.prediction.embedding",
    "embed_file": "luthier.prediction.embedding",
    "embed_texts": "luthier.prediction.embedding",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
