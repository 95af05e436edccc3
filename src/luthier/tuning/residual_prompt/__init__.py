"""Residual Prompt Tuning (Razdaibiedina et al., Findings of ACL 2023) as a PEFT tuner.

During training every prompt vector passes through a small network with a skip connection; afterwards the network
is folded into the prompt.
"""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "FoldedPrompt": "luthier.peft_bridge.folded_prompt",
    "ResidualPromptConfig": "luthier.tuning.residual_prompt.encoder",
    "ResidualPromptEncoder": "luthier.tuning.residual_prompt.encoder",
    "branch_ratio": "luthier.tuning.residual_prompt.encoder",
    "fold_prompt": "luthier.peft_bridge.folded_prompt",
    "load_trainable_prompt": "luthier.peft_bridge.trainable_prompts",
    "parameter_counts": "luthier.tuning.residual_prompt.encoder",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
