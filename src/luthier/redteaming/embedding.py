"""How far apart prompts lie in meaning, by vectors of a sentence encoder.

Shapes: N prompts, T tokens, H width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.models.artifacts import load
from luthier.models.placing import on_accelerator
from luthier.models.settings import ModelSettings

_TOGETHER, _LONGEST = 32, 256


def embedding_spread(texts: Sequence[str], encoder: ModelSettings) -> float:
    """1 less the mean cosine of all pairs of prompts; 0 for fewer than two.

    Raises:
        ModelError: the encoder can't be loaded.
    """
    return spread_of(sentence_vectors(texts, encoder)) if len(texts) > 1 else 0.0


def spread_of(vectors_NH: Tensor) -> float:
    """1 less the mean cosine of all pairs of vectors: of unit vectors the sum over pairs is that over all, less N."""
    unit_NH = torch.nn.functional.normalize(vectors_NH.double(), dim=-1)
    count = len(unit_NH)
    return float(1 - (unit_NH.sum(0).square().sum() - count) / (count * (count - 1)))


def sentence_vectors(texts: Sequence[str], encoder: ModelSettings) -> Tensor:
    """The mean of the last hidden states of each text, (N, H) in float32."""
    model, tokenizer = load(encoder, "encoder")
    model, found = on_accelerator(model).eval(), []
    for start in range(0, len(texts), _TOGETHER):
        batch = tokenizer(
            list(texts[start : start + _TOGETHER]),
            padding=True,
            truncation=True,
            max_length=_LONGEST,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            hidden_BTH = model(**batch).last_hidden_state.float()
        mask_BT1 = batch["attention_mask"][..., None].to(hidden_BTH.dtype)
        found.append(((hidden_BTH * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)).cpu())
    return torch.cat(found)
