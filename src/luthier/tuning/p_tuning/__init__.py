"""P-tuning (Liu et al., AI Open 2024): through PEFT before the text, and as a PEFT tuner of ours behind [CLS]."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "PTuningConfig": "luthier.tuning.p_tuning.encoder",
    "PTuningEncoder": "luthier.tuning.p_tuning.encoder",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
