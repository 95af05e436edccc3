"""Joint extraction of entities and relations: span models with cross-task attention (SINET, LREC-COLING 2024).

`SinetForJointExtraction` is a transformers model on any encoder; the task `joint_extraction` has recipes train it.
"""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "AutoModelForJointExtraction": "luthier.extraction.auto",
    "SinetConfig": "luthier.extraction.config",
    "SinetForJointExtraction": "luthier.extraction.model",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
