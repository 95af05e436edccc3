"""Finding, checking, loading and saving models: hub ids, directories, packages, and what Luthier saved."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "ModelSettings": "luthier.models.settings",
    "load": "luthier.models.artifacts",
    "load_artifact": "luthier.models.artifacts",
    "load_model": "luthier.models.artifacts",
    "load_tokenizer": "luthier.models.loading",
    "register_adapter_type": "luthier.peft_bridge.adapter_types",
    "save_artifact": "luthier.models.artifacts",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
