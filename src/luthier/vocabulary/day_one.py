"""How well a language model predicts text, in a measure that does not depend on its tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luthier.data.schemas import IGNORED
from luthier.language_modeling.rows import prediction_rows
from luthier.models.inspect import model_max_length

_RATE, _BATCH, _LONGEST = 0.15, 16, 256


@torch.no_grad()
def nats_a_letter(model: nn.Module, tokenizer: Any, lines: list[str], *, masked: bool, seed: int = 0) -> float | None:
    """Mean loss of a token times tokens a letter; None where there is nothing to predict.

    Args:
        model: with a language-model head.
        tokenizer: of it.
        lines: text; what is longer than 256 tokens, or than the model takes, is cut off.
        masked: whether 15 % of the tokens, and some of every 16 lines, are masked, drawn from `seed`, and guessed;
            else each is predicted by those before it.
    """
    if masked and tokenizer.mask_token_id is None:
        return None
    limit = min(_LONGEST, model_max_length(model.config, tokenizer) or _LONGEST)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    draw = torch.Generator().manual_seed(seed)
    was_training, device = model.training, next(model.parameters()).device
    loss = predicted = tokens = letters = 0.0
    model.eval()
    for start in range(0, len(lines), _BATCH):
        some = lines[start : start + _BATCH]
        batch = tokenizer(some, truncation=True, max_length=limit, padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        plain = mask.bool() & ~torch.isin(ids, torch.tensor(sorted(special)))
        tokens += int(plain.sum())
        whole = tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]
        kept = [min(1.0, int(p.sum()) / max(1, len(one))) for p, one in zip(plain, whole, strict=True)]
        letters += sum(share * len(text) for share, text in zip(kept, some, strict=True))
        chosen = _masked(plain, draw) if masked else plain
        labels = torch.where(chosen, ids, IGNORED)
        seen = torch.where(chosen, tokenizer.mask_token_id, ids) if masked else ids
        inputs = {"input_ids": seen.to(device), "attention_mask": mask.to(device)}
        losses = prediction_rows(model, labels.to(device), shifted=not masked, inputs=inputs).losses()
        loss, predicted = loss + float(losses.double().sum()), predicted + len(losses)
    model.train(was_training)
    return loss / predicted * tokens / letters if predicted and letters else None


def _masked(plain: Tensor, draw: torch.Generator) -> Tensor:
    """Which tokens are masked, of (B, T) that may be; the likeliest one where few tokens leave none."""
    chances = torch.rand(plain.shape, generator=draw)
    chosen = plain & (chances < _RATE)
    if not chosen.any() and plain.any():
        chosen.view(-1)[torch.where(plain, chances, 1.0).argmin()] = True
    return chosen


def unknown_share(tokenizer: Any, lines: list[str]) -> float:
    """Share of tokens that stand for what the vocabulary lacks."""
    ids = [one for row in tokenizer(lines, add_special_tokens=False, verbose=False)["input_ids"] for one in row]
    return 0.0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id) / max(1, len(ids))
