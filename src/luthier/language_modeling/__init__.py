"""Training of masked and causal language models on text: what the rooms that do it share."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "Frame": "luthier.language_modeling.packing",
    "HeldOut": "luthier.language_modeling.held_out",
    "LanguageModelingLoss": "luthier.language_modeling.part",
    "Masking": "luthier.language_modeling.masking",
    "PackedStream": "luthier.language_modeling.stream",
    "Packer": "luthier.language_modeling.packing",
    "PredictionRows": "luthier.language_modeling.rows",
    "causal_lm_loss": "luthier.language_modeling.losses",
    "chunked_cross_entropy": "luthier.language_modeling.chunked_loss",
    "held_out_rows": "luthier.language_modeling.held_out",
    "masked_lm_loss": "luthier.language_modeling.losses",
    "pack_documents": "luthier.language_modeling.packing",
    "paper_flops": "luthier.language_modeling.budget",
    "prediction_rows": "luthier.language_modeling.rows",
    "sampled_cross_entropy": "luthier.language_modeling.sampled_loss",
    "text_job": "luthier.language_modeling.preparing",
    "token_cost": "luthier.language_modeling.budget",
    "training_job": "luthier.language_modeling.preparing",
    "vocabulary_parallel_cross_entropy": "luthier.language_modeling.chunked_loss",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
