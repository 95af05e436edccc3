"""IDPG, instance-dependent prompt generation (Wu et al., NAACL 2022), as a PEFT tuner.

A small generator turns a representation of the input into prompt vectors for a frozen model.
"""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "InstancePromptConfig": "luthier.tuning.instance_prompt.tuner",
    "InstancePromptLayer": "luthier.tuning.instance_prompt.layer",
    "InstancePromptModel": "luthier.tuning.instance_prompt.tuner",
    "PHMLinear": "luthier.tuning.instance_prompt.generator",
    "PromptGenerator": "luthier.tuning.instance_prompt.generator",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
