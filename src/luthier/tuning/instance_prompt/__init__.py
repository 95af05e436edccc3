"""IDPG, instance-dependent prompt generation (Wu et al., NAACL 2022), as a PEFT tuner.

A small generator turns a representation of the input into prompt vectors for a frozen model. Importing this
package makes `InstancePromptConfig` known to PEFT.
"""

from __future__ import annotations

from luthier.tuning.instance_prompt.config import InstancePromptConfig
from luthier.tuning.instance_prompt.generator import PHMLinear, PromptGenerator
from luthier.tuning.instance_prompt.layer import InstancePromptLayer
from luthier.tuning.instance_prompt.model import InstancePromptModel
from luthier.tuning.peft_registration import register_tuner

__all__ = ["InstancePromptConfig", "InstancePromptLayer", "InstancePromptModel", "PHMLinear", "PromptGenerator"]

register_tuner("instance_prompt", InstancePromptConfig, InstancePromptModel)
