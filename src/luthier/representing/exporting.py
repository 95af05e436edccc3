"""A task's prefix as plain keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.errors import ModelError
from luthier.methods.export import LOAD_IT, Exported, Saved
from luthier.methods.prefix_table import by_heads
from luthier.models.adapters import base_settings
from luthier.models.inspect import is_encoder_decoder
from luthier.models.layers.blocks import find_blocks
from luthier.models.loading import empty_model
from luthier.models.settings import ModelSettings
from luthier.representing.states import place_name, prefix_of_adapter


def exported_prefix(state: dict[str, Tensor], config: dict[str, Any], saved: Saved) -> Exported:
    """The prefix of a saved `task_prefix` adapter. See `luthier.methods.export.export_prompt`."""
    if config.get("weight", 1.0) != 1.0:
        raise ModelError(
            f"the prefix counts {config['weight']} times, which keys and values alone can't express",
            where=str(saved.folder),
            fix="set the adapter's weight to 1 before it is saved",
        )
    card = saved.card
    base = empty_model(base_settings(card, ModelSettings(reference=card.base, allow=saved.allow)), card.head)
    prefix, blocks = prefix_of_adapter(state, is_encoder_decoder(base.config)), find_blocks(base)
    by_site: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
    for block in blocks:
        for site, attention in block.attentions.items():
            if (pair := prefix.states.get(place_name(block, site))) is None:
                continue
            key, value = (by_heads(x, attention.key_value_heads, attention.head_width)[0] for x in pair)
            name = "" if not block.stack else f"{block.stack if site == 'self' else 'cross'}."
            by_site.setdefault(name, []).append((block.index, key, value))
    tensors, layers = {}, {}
    for name, rows in by_site.items():
        rows.sort(key=lambda row: row[0])
        if len({row[1].shape for row in rows}) > 1:
            raise ModelError(
                "the layers' key/value heads differ in shape, so that no one tensor holds them", fix=LOAD_IT
            )
        layers[name] = [row[0] for row in rows]
        tensors[f"{name}key"] = torch.stack([row[1] for row in rows])
        tensors[f"{name}value"] = torch.stack([row[2] for row in rows])
    some = {name.rstrip(".") or "layers": at for name, at in layers.items() if at != list(range(_depth(blocks)))}
    return Exported("prefix", tensors, prefix.length, 0, {"layers": some} if some else {})


def _depth(blocks: list[Any]) -> int:
    return max(block.index for block in blocks) + 1
