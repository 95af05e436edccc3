"""Longer contexts: rotary frequencies, a packed stream with a length curriculum, and probes of what is used."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "LengthCurriculum": "luthier.context.curriculum",
    "RopeSettings": "luthier.context.rope_settings",
    "adjust_base_frequency": "luthier.context.rope_config",
    "check_before_training": "luthier.context.preflight",
    "first_sentence_retrieval": "luthier.context.probes",
    "fit_power_law": "luthier.context.power_law",
    "inverse_frequencies": "luthier.context.rope",
    "losses_by_position": "luthier.context.position_losses",
    "multi_key_retrieval": "luthier.context.ruler",
    "passkey_retrieval": "luthier.context.probes",
    "variable_tracking": "luthier.context.ruler",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
