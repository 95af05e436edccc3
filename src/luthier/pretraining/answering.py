"""What a masked language model says of a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from luthier.data.schemas import IGNORED
from luthier.data.table import Problems
from luthier.errors import DataError
from luthier.language_modeling.rows import PredictionRows, prediction_rows

MASK = "[MASK]"
_FILLS = 5


@torch.no_grad()
def answer(model: nn.Module, tokenizer: Any, text: str, longest: int | None, batch_size: int = 64) -> dict[str, Any]:
    """The likeliest tokens for the masks of a text, or how likely it is where it has none.

    Args:
        model, tokenizer: of the masked language model, in evaluation mode.
        text: one text.
        longest: tokens that the model takes.
        batch_size: copies of the text in one forward pass, each with another token masked.

    Raises:
        DataError: the text is longer than the model takes, or has no token to guess.
    """
    ids = _ids(tokenizer, text)
    if longest is not None and len(ids) > longest:
        raise DataError(f"the text has {len(ids)} tokens, and the model takes {longest}", fix="give a shorter text")
    if tokenizer.mask_token_id in ids:
        return {"text": text, "fills": _fills(model, tokenizer, ids)}
    return {"text": text, **_likelihood(model, tokenizer, ids, batch_size)}


def check_texts(texts: Sequence[str], tokenizer: Any, longest: int | None, where: str) -> None:
    """
    Raises:
        DataError: texts of a file are longer than the model takes, or have no token to guess; names their rows.
    """
    problems = Problems(where)
    for number, text in enumerate(texts, 1):
        ids = _ids(tokenizer, text)
        if longest is not None and len(ids) > longest:
            problems.add(f"row {number}", f"has {len(ids)} tokens, and the model takes {longest}")
        elif tokenizer.mask_token_id not in ids and not _guessed(tokenizer, ids):
            problems.add(f"row {number}", "has no token to guess")
    problems.raise_if_any("shorten these texts, or leave them out")


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text.replace(MASK, tokenizer.mask_token))["input_ids"]
    return ids


def _guessed(tokenizer: Any, ids: list[int]) -> list[int]:
    """The places of the tokens that are guessed where nothing is masked."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [place for place, token in enumerate(ids) if token not in special]


def _fills(model: nn.Module, tokenizer: Any, ids: list[int]) -> list[list[dict[str, Any]]]:
    seen = torch.tensor([ids])
    rows = _rows(model, seen, torch.where(seen == tokenizer.mask_token_id, 0, IGNORED))
    best = rows.logits().softmax(dim=-1).topk(min(_FILLS, len(rows.weight)))
    return [
        [
            {"token": tokenizer.decode([token]).strip(), "probability": probability}
            for token, probability in zip(tokens, chances, strict=True)
        ]
        for tokens, chances in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _likelihood(model: nn.Module, tokenizer: Any, ids: list[int], batch_size: int) -> dict[str, Any]:
    places = _guessed(tokenizer, ids)
    if not places:
        raise DataError("the text has no token to guess", fix="give a text with a word in it")
    total = 0.0
    for start in range(0, len(places), batch_size):
        some = places[start : start + batch_size]
        seen = torch.tensor([ids] * len(some))
        labels = torch.full_like(seen, IGNORED)
        for row, place in enumerate(some):
            labels[row, place], seen[row, place] = ids[place], tokenizer.mask_token_id
        total -= float(_rows(model, seen, labels).losses().double().sum())
    mean = -total / len(places)
    return {"pseudo_log_likelihood": total, "pseudo_perplexity": math.exp(min(mean, 700.0))}


def _rows(model: nn.Module, seen: torch.Tensor, labels: torch.Tensor) -> PredictionRows:
    device = next(model.parameters()).device
    inputs = {"input_ids": seen.to(device), "attention_mask": torch.ones_like(seen, device=device)}
    return prediction_rows(model, labels.to(device), shifted=False, inputs=inputs)
