"""UniPELT (Mao et al., ACL 2022) as a PEFT tuner: adapter, prefix, LoRA and bias shifts, each behind a gate.

Importing this package makes `UniPELTConfig` known to PEFT.
"""

from __future__ import annotations

from luthier.tuning.peft_registration import register_tuner
from luthier.tuning.unipelt.config import UniPELTConfig
from luthier.tuning.unipelt.record import GateRecord, gate_report, record_gates
from luthier.tuning.unipelt.tuner import UniPELTModel, fold_prefix, part_sizes

__all__ = [
    "GateRecord",
    "UniPELTConfig",
    "UniPELTModel",
    "fold_prefix",
    "gate_report",
    "part_sizes",
    "record_gates",
]

register_tuner("unipelt", UniPELTConfig, UniPELTModel, prefix="unipelt_")
