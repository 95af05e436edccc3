"""Encoded rows -> one padded batch of tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from luthier.data.schemas import IGNORED, SCHEMAS, TaskSchema
from luthier.errors import ModelError

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
        tokenizer: says what is padded with, and, where no text is learned token by token, on which side. Text that is
            begins at position 0, so that no padding predicts its first token.
        pad_to_multiple_of: T is rounded up to a multiple of this.

    Raises:
        ModelError: the tokenizer has no token to pad with.
    """
    task = SCHEMAS[schema] if isinstance(schema, str) else schema
    with_pad_token(tokenizer)
    return _Collator(task, Padding(tokenizer, pad_to_multiple_of))


class Padding:
    """Makes (N, T) tensors of N lists, on the tokenizer's side and with its values."""

    def __init__(self, tokenizer: Any, multiple: int | None) -> None:
        self.multiple = multiple or 1
        self.left = tokenizer.padding_side == "left"
        self.values = {
            "input_ids": tokenizer.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
            "labels": IGNORED,
        }

    def behind(self) -> Padding:
        """One that pads behind the rows, whatever the tokenizer's side."""
        other = copy(self)
        other.left = False
        return other

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
    def __init__(self, task: TaskSchema, padding: Padding) -> None:
        self.task = task
        self.padding = padding

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = self.task.collate(rows, self.padding)
        batch["row"] = torch.tensor([row["row"] for row in rows], dtype=torch.int64)
        return batch


def padded_inputs(rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
    """What a model reads of B rows: (B, T) int64 tensors."""
    return {name: padding(name, [row[name] for row in rows]) for name in _PADDED if name in rows[0]}


def padded_choices(rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
    """What a model reads of B rows that hold C token lists each: (B, C, T) int64 tensors."""
    flat = {name: padding(name, [one for row in rows for one in row[name]]) for name in _PADDED if name in rows[0]}
    return {name: values.view(len(rows), -1, values.shape[-1]) for name, values in flat.items()}


def padded_labels(rows: Sequence[Mapping[str, Any]], padding: Padding, *, numbers: bool = False) -> dict[str, Tensor]:
    """`labels` of B rows, where they have some: (B,) int64, or float32 for `numbers`; (B, T) int64 for one a token."""
    if "labels" not in rows[0]:
        return {}
    labels = [row["labels"] for row in rows]
    if hasattr(labels[0], "__len__"):
        return {"labels": padding("labels", labels)}
    return {"labels": torch.tensor(labels, dtype=torch.float32 if numbers else torch.int64)}
