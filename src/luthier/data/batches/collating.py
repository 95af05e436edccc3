"""Encoded rows -> one padded batch of tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.data.schemas import TaskSchema
from luthier.errors import ModelError

IGNORED = -100
_PADDED = ("input_ids", "attention_mask", "token_type_ids")
_log = logging.getLogger(__name__)

Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]


def with_pad_token(tokenizer: Any) -> Any:
    """The tokenizer, with its end token for padding where it has no padding token. Padded positions are masked, so
    that the model never sees the difference.

    Raises:
        ModelError: it has neither.
    """
    if tokenizer.pad_token_id is not None:
        return tokenizer
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has neither a padding token nor an end token, so rows can't be batched",
            fix="add one with tokenizer.add_special_tokens, resize the model's embeddings, and save both",
        )
    _log.info("the tokenizer has no padding token: its end token %r is used", tokenizer.eos_token)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def make_collator(schema: TaskSchema | str, tokenizer: Any, pad_to_multiple_of: int | None = None) -> Collator:
    """A function from a list of B encoded rows to a batch.

    The batch holds `input_ids`, `attention_mask` (and `token_type_ids`) of shape (B, T), (B, C, T) for multiple choice,
    int64; `labels` of shape (B,) int64, (B,) float32 for regression, or (B, T) int64 with -100 where nothing is
    learned; (B,) `start_positions` and `end_positions` for answers; and `row`, (B,) int64.

    Args:
        schema: the task, or its name.
        tokenizer: says what is padded with, and on which side.
        pad_to_multiple_of: T is rounded up to a multiple of this.

    Raises:
        ModelError: the tokenizer has no token to pad with.
    """
    name = schema if isinstance(schema, str) else schema.name
    with_pad_token(tokenizer)
    return _Collator(name, _Padding(tokenizer, pad_to_multiple_of))


class _Padding:
    def __init__(self, tokenizer: Any, multiple: int | None) -> None:
        self.multiple = multiple or 1
        self.left = tokenizer.padding_side == "left"
        self.values = {
            "input_ids": tokenizer.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
            "labels": IGNORED,
        }

    def __call__(self, name: str, lists: Sequence[Sequence[int]]) -> Tensor:
        width = max(len(one) for one in lists)
        width = -(-width // self.multiple) * self.multiple
        batch = torch.full((len(lists), width), self.values[name], dtype=torch.int64)
        for i, one in enumerate(lists):
            if len(one):
                place = slice(width - len(one), width) if self.left else slice(0, len(one))
                batch[i, place] = torch.as_tensor(one, dtype=torch.int64)
        return batch


class _Collator:
    def __init__(self, schema: str, padding: _Padding) -> None:
        self.schema = schema
        self.padding = padding

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        columns = [name for name in _PADDED if name in rows[0]]
        if self.schema == "multiple_choice":
            batch = self._choices(rows, columns)
        else:
            batch = {name: self.padding(name, [row[name] for row in rows]) for name in columns}
        for name in ("start_positions", "end_positions"):
            if name in rows[0]:
                batch[name] = self._answers([row[name] for row in rows], rows, batch["input_ids"].shape[1])
        if "labels" in rows[0]:
            batch["labels"] = self._labels([row["labels"] for row in rows])
        batch["row"] = torch.tensor([row["row"] for row in rows], dtype=torch.int64)
        return batch

    def _choices(self, rows: Sequence[Mapping[str, Any]], columns: list[str]) -> dict[str, Tensor]:
        flat = {name: self.padding(name, [one for row in rows for one in row[name]]) for name in columns}
        return {name: values.view(len(rows), -1, values.shape[-1]) for name, values in flat.items()}

    def _answers(self, positions: list[int], rows: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        shift = [width - len(row["input_ids"]) if self.padding.left else 0 for row in rows]
        return torch.tensor([p + s for p, s in zip(positions, shift, strict=True)], dtype=torch.int64)

    def _labels(self, labels: list[Any]) -> Tensor:
        if isinstance(labels[0], Sequence) or hasattr(labels[0], "__len__"):
            return self.padding("labels", labels)
        return torch.tensor(labels, dtype=torch.float32 if self.schema == "regression" else torch.int64)
