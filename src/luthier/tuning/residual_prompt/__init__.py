"""Residual Prompt Tuning (Razdaibiedina et al., Findings of ACL 2023) as a PEFT tuner.

During training every prompt vector passes through a small network with a skip connection; afterwards the network
is folded into the prompt. Importing this package makes `ResidualPromptConfig` known to PEFT.
"""

from __future__ import annotations

from luthier.tuning.peft_registration import register_tuner
from luthier.tuning.residual_prompt.config import ResidualPromptConfig
from luthier.tuning.residual_prompt.encoder import ResidualPromptEncoder, branch_ratio, parameter_counts
from luthier.tuning.residual_prompt.fold import FoldedPrompt, fold_prompt
from luthier.tuning.residual_prompt.peft_shim import install
from luthier.tuning.residual_prompt.resume import load_trainable_prompt

__all__ = [
    "FoldedPrompt",
    "ResidualPromptConfig",
    "ResidualPromptEncoder",
    "branch_ratio",
    "fold_prompt",
    "load_trainable_prompt",
    "parameter_counts",
]

register_tuner("residual_prompt", ResidualPromptConfig, ResidualPromptEncoder)
install()
