"""Bottleneck adapters (Houlsby et al., ICML 2019; Pfeiffer et al., EACL 2021) as a PEFT tuner.

Importing this package makes `BottleneckConfig` known to PEFT.
"""

from __future__ import annotations

from luthier.tuning.bottleneck.adapter import Bottleneck
from luthier.tuning.bottleneck.config import BottleneckConfig
from luthier.tuning.bottleneck.tuner import BottleneckLayer, BottleneckModel
from luthier.tuning.peft_registration import register_tuner

__all__ = ["Bottleneck", "BottleneckConfig", "BottleneckLayer", "BottleneckModel"]

register_tuner("bottleneck", BottleneckConfig, BottleneckModel, prefix="bottleneck_")
