"""UniPELT (Mao et al., ACL 2022) as a PEFT tuner: adapter, prefix, LoRA and bias shifts, each behind a gate."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "GateRecord": "luthier.methods.gates",
    "UniPELTConfig": "luthier.tuning.unipelt.tuner",
    "UniPELTModel": "luthier.tuning.unipelt.tuner",
    "fold_prefix": "luthier.tuning.unipelt.tuner",
    "gate_report": "luthier.methods.gates",
    "part_sizes": "luthier.tuning.unipelt.tuner",
    "record_gates": "luthier.methods.gates",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
