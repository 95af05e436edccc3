"""What many prompts begin with, read once: its keys and values serve all of them, and the next ones that begin so.

Shapes: B prompts, P tokens of a prompt, S tokens of their common beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.errors import ModelError, a_model
from luthier.generation.rollout import common_beginning, keys_can_be_shared

# A beginning is read apart when it has so many tokens.
_LEAST = 16


class Beginnings:
    """Keeps the beginning that was read last.

    Args:
        model: a causal language model.
        reuse: whether anything is kept.

    Attributes:
        read: tokens that went through the model for beginnings and prompts.
    """

    def __init__(self, model: Any, *, reuse: bool = True) -> None:
        self.model, self.read = model, 0
        self._may = reuse and hasattr(model, "config") and keys_can_be_shared(model.config, even=True)
        self._ids: list[int] = []
        self._layers: list[tuple[Tensor, Tensor]] = []

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> Any:
        """The cache (B, P) behind prompts of one length."""
        device = next(self.model.parameters()).device
        shared = common_beginning(prompts) if self._may else 0
        cache = self._shared(list(prompts[0][:shared]), len(prompts)) if shared >= _LEAST else None
        start = shared if cache is not None else 0
        rest = torch.tensor([list(one[start:]) for one in prompts], device=device)
        self.read += rest.numel()
        more = {} if cache is None else {"past_key_values": cache}
        found = self._read(rest, more)
        for layer in getattr(found, "layers", ()):
            if hasattr(layer, "activate_past_recording"):
                layer.activate_past_recording()  # what moves out of a window is needed when an answer is taken back
        return found

    def _shared(self, ids: list[int], count: int) -> Any:
        """A cache of `ids` for `count` rows; None for models whose caches can't be parted."""
        from transformers.cache_utils import DynamicCache

        known = 0
        while known < min(len(ids), len(self._ids)) and ids[known] == self._ids[known]:
            known += 1
        if known < len(ids):
            device = next(self.model.parameters()).device
            more = {"past_key_values": self._cache(known, 1)} if known else {}
            new = torch.tensor([ids[known:]], device=device)
            self.read += new.numel()
            cache = self._read(new, more)
            if not isinstance(cache, DynamicCache) or not all(_is_plain(layer) for layer in cache.layers):
                self._may = False
                return None
            self._ids, self._layers = ids, [(layer.keys, layer.values) for layer in cache.layers]
        return self._cache(len(ids), count)

    def _read(self, ids: Tensor, more: dict[str, Any]) -> Any:
        found = getattr(self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **more), "past_key_values", None)
        if found is None:
            raise ModelError(
                f"{a_model(self.model.config.model_type)} keeps no keys and values, behind which answers are compared",
                fix="ask a model with attention, or leave out what compares answers behind a text",
            )
        return found

    def _cache(self, tokens: int, count: int) -> Any:
        from transformers.cache_utils import DynamicCache

        def rows(values: Tensor) -> Tensor:
            return values[..., :tokens, :].expand(count, -1, -1, -1)

        return DynamicCache(ddp_cache_data=[(rows(keys), rows(values)) for keys, values in self._layers])


def _is_plain(layer: Any) -> bool:
    from transformers.cache_utils import DynamicLayer

    return type(layer) is DynamicLayer
