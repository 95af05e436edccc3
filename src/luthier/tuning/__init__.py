"""Parameter-efficient tuning: methods for a recipe's `tune` stage, and PEFT tuners for those that PEFT lacks."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "ResidualPromptConfig": "luthier.tuning.residual_prompt",
    "fold_prompt": "luthier.peft_bridge.folded_prompt",
    "export_model": "luthier.methods.export",
    "export_prompt": "luthier.methods.export",
    "load_trainable_prompt": "luthier.peft_bridge.trainable_prompts",
    "register": "luthier.peft_bridge.registration",
    "BottleneckConfig": "luthier.tuning.bottleneck",
    "UniPELTConfig": "luthier.tuning.unipelt",
    "InstancePromptConfig": "luthier.tuning.instance_prompt",
    "TaskPrefixConfig": "luthier.representing",
    "SharedEncoder": "luthier.representing.shared_encoder",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
