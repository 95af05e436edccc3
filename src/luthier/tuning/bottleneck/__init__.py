"""Bottleneck adapters (Houlsby et al., ICML 2019; Pfeiffer et al., EACL 2021) as a PEFT tuner."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "Bottleneck": "luthier.tuning.bottleneck.tuner",
    "BottleneckConfig": "luthier.tuning.bottleneck.tuner",
    "BottleneckLayer": "luthier.tuning.bottleneck.tuner",
    "BottleneckModel": "luthier.tuning.bottleneck.tuner",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
