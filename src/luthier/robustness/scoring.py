"""A classifier over raw texts: batched, padded, with attention masks, in the order of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from luthier.errors import ModelError
from luthier.models.inspect import model_max_length

Text = str | tuple[str, str]
# Tokens of a text for a model that nothing limits.
_LONGEST = 512


class Scorer:
    """`scorer(texts)` -> (N, C) float32 logits.

    A row's logits don't depend on what else is in its batch, up to rounding.

    Args:
        model: a sequence classifier, on any device; it is put in evaluation mode for the time of a call.
        tokenizer: its tokenizer.
        batch_size: texts in one forward pass.
        max_length: positions of a text and its prompt; longer texts are cut and counted in `truncated`. None takes
            what the tokenizer and the model allow.
        reserved: how many of them a prompt method fills itself.
        pad_mask: false attends to padding, as RoAST's released code does (section 8, item 2).

    Raises:
        ModelError: the tokenizer or model has no padding token.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        batch_size: int = 64,
        max_length: int | None = None,
        reserved: int = 0,
        pad_mask: bool = True,
    ) -> None:
        if batch_size > 1 and tokenizer.pad_token_id is None:
            raise ModelError("the tokenizer has no padding token", fix="set tokenizer.pad_token, or batch_size=1")
        self.model, self.tokenizer, self.batch_size, self.pad_mask = model, tokenizer, batch_size, pad_mask
        self.max_length = (max_length or model_max_length(model.config, tokenizer) or _LONGEST) - reserved
        self.truncated = 0

    def __call__(self, texts: str | Sequence[Text]) -> np.ndarray:
        """(N, C) logits of N texts, or pairs of them; a single string is one text."""
        texts = [texts] if isinstance(texts, str) else texts
        if not texts:
            raise ValueError("there are no texts to score")
        rows = [self._encode(text) for text in texts]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
        found: list[np.ndarray | None] = [None] * len(rows)
        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(order), self.batch_size):
                picked = order[start : start + self.batch_size]
                for i, logits in zip(picked, self._logits([rows[i] for i in picked]), strict=True):
                    found[i] = logits
        finally:
            self.model.train(was_training)
        return np.stack([row for row in found if row is not None])

    def probabilities(self, texts: str | Sequence[Text]) -> np.ndarray:
        """(N, C) float64."""
        from luthier.robustness.metrics import softmax

        return softmax(self(texts))

    def count_too_long(self, texts: Sequence[Text]) -> int:
        """How many of the texts are cut when they are scored."""
        return sum(len(self.tokenizer(*_parts(text))["input_ids"]) > self.max_length for text in texts)

    def _encode(self, text: Text) -> dict[str, list[int]]:
        parts = _parts(text)
        encoded = self.tokenizer(*parts)
        if len(encoded["input_ids"]) > self.max_length:
            self.truncated += 1
            encoded = self.tokenizer(*parts, truncation=True, max_length=self.max_length)
        return {k: v for k, v in encoded.items() if k in ("input_ids", "attention_mask", "token_type_ids")}

    def _logits(self, rows: list[dict[str, list[int]]]) -> np.ndarray:
        batch = self.tokenizer.pad(rows, padding=len(rows) > 1, return_tensors="pt")
        batch = batch.to(next(self.model.parameters()).device)
        if not self.pad_mask:
            batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        with torch.inference_mode():
            logits: np.ndarray = self.model(**batch).logits.float().cpu().numpy()
        return logits


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)
