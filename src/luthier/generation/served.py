"""Which adapters vLLM serves, told by their PEFT configuration. Nothing here imports torch or vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.errors import ModelError

# What vLLM takes as `max_lora_rank`.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Fields of an adapter's configuration that vLLM refuses, or leaves out without a word, and what they mean where they
# do nothing.
_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
}


def served_rank(config: Mapping[str, Any], where: str | None = None) -> int:
    """The least rank that vLLM takes which a LoRA adapter fits in.

    Args:
        config: of the adapter.
        where: it lies, for errors.

    Raises:
        ModelError: it is another adapter, or one that vLLM can't serve, or would serve without a part of it.
    """
    kind, fix = str(config.get("peft_type")), "use `kind: local`"
    if kind != "LORA":
        raise ModelError(f"vLLM serves LoRA adapters, and this is {kind}", where=where, fix=fix)
    for name, nothing in _NOTHING.items():
        if config.get(name) not in nothing:
            raise ModelError(f"vLLM serves no LoRA adapter with `{name}`", where=where, fix=fix)
    pattern = config.get("rank_pattern")
    ranks = [config.get("r", 8), *(pattern.values() if isinstance(pattern, Mapping) else ())]
    rank = max([1, *(one for one in ranks if isinstance(one, int))])  # what is no rank, PEFT refuses
    if rank > RANKS[-1]:
        raise ModelError(f"vLLM serves ranks up to {RANKS[-1]}, and this has {rank}", where=where, fix=fix)
    return next(one for one in RANKS if one >= rank)
