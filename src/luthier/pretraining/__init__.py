"""Pretraining: masked and causal language models, from scratch or on from any checkpoint."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "causal_lm_loss": "luthier.language_modeling.losses",
    "cloze_scores": "luthier.pretraining.cloze",
    "masked_lm_loss": "luthier.language_modeling.losses",
    "new_model": "luthier.pretraining.start",
    "new_tokenizer": "luthier.pretraining.tokenizers",
    "pack_documents": "luthier.language_modeling.packing",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
