"""What is looked at on a batch of two documents before hours are spent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from luthier.context.document_attention import attending_within_documents
from luthier.context.rope_config import check_frequencies
from luthier.context.rows import DocumentMask, collate_rows, packing_collator, rows_of_block
from luthier.data.schemas import IGNORED
from luthier.errors import ModelError
from luthier.language_modeling.context_parallel import sharing_rows
from luthier.language_modeling.packing import Block
from luthier.language_modeling.rows import logits_agree

_FIRST, _SECOND, _WRITTEN = 7, 9, 4


@contextmanager
def without_cache(model: Any) -> Iterator[None]:
    """Inside the block the model keeps no keys and values by itself: with a cache transformers takes packed documents
    for one text, without a word."""
    before = model.config.use_cache
    model.config.use_cache = False
    try:
        yield
    finally:
        model.config.use_cache = before


@contextmanager
def as_trained(model: Any, attention: str, processes: int = 1, length: int = 0) -> Iterator[None]:
    """Inside the block the model takes packed documents, and slices of rows, as it does in training.

    Args:
        attention: how documents are kept apart, as the stage has it.
        processes: that share a row.
        length: tokens of the longest rows.
    """
    apart = attending_within_documents(model) if attention == "varlen" else nullcontext()
    with without_cache(model), apart, sharing_rows(model, processes, length):
        yield


def check_before_training(model: Any, config: Any, mask: DocumentMask, attention: str = "mask") -> dict[str, str]:
    """Look at the model on two short documents.

    Args:
        model: that will be trained.
        config: what it was asked to be.
        mask: whether documents see each other.
        attention: how they are kept apart.

    Returns:
        What was looked at, and what was found, in words.

    Raises:
        ModelError: frequencies are not as asked; packed documents see each other, or don't see themselves; a label
            crosses from one document to the next; or generation gives other logits with a cache than without.
    """
    was_training = model.training
    model.eval()
    try:
        check_frequencies(model, config)
        found = {"inverse frequencies": "as asked, in float32"}
        if mask == "block":
            _check_isolation(model, attention)
            found["documents"] = "isolated: packed logits are those of each alone"
            found["labels"] = "no document predicts the next one's first token"
        else:
            found["documents"] = "one text, as published"
        _check_cache(model)
        return {**found, "generation": "the same with and without a cache"}
    finally:
        model.train(was_training)


def two_documents(vocabulary: int) -> Block:
    """A block of two documents, of 7 and 9 tokens."""
    ids = 1 + np.arange(_FIRST + _SECOND, dtype=np.int64) * 7 % max(2, vocabulary - 1)
    return Block(ids, None, np.repeat(np.arange(2), [_FIRST, _SECOND]))


def _check_isolation(model: Any, attention: str) -> None:
    block, device = two_documents(model.config.vocab_size), next(model.parameters()).device
    rows = [rows_of_block(block, number, len(block.ids), "block") for number in range(2)]
    batch = packing_collator(model, "block", collate_rows)(rows)
    packed, positions = batch["input_ids"].to(device), batch["position_ids"].to(device)
    with torch.no_grad(), as_trained(model, attention):
        together = model(input_ids=packed, position_ids=positions).logits.float()
    each = packed.reshape(-1)[: len(block.ids)].tensor_split([_FIRST])
    with torch.no_grad(), without_cache(model):
        alone = torch.cat([model(input_ids=ids[None]).logits.float() for ids in each], dim=1)
    if not logits_agree(together.reshape(2, *alone.shape[1:]), alone.expand(2, -1, -1), next(model.parameters()).dtype):
        raise ModelError(
            f"packed documents see each other: {type(model).__name__} with {model.config._attn_implementation} "
            "attention gives other logits for two documents in each of two rows than for each alone",
            fix="leave out `document_attention`, or set `document_mask: none`"
            if attention == "varlen"
            else "set `document_mask: none`, or `attention: sdpa` of the model",
        )
    labels = batch["labels"].reshape(2, -1)[0]
    if labels[_FIRST] != IGNORED or int(labels.eq(IGNORED).sum()) != 2:
        raise ModelError("the label mask is wrong: only the first token of each document may be without a label")


def _check_cache(model: Any) -> None:
    """Each step of decoding has to give the logits of the whole text at once."""
    parameter = next(model.parameters())
    ids = torch.as_tensor(two_documents(model.config.vocab_size).ids, device=parameter.device)[None]
    start = ids.shape[1] - _WRITTEN
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits.float()[:, start - 1 :]
        step = model(input_ids=ids[:, :start], use_cache=True)
        pieces, cache = [step.logits[:, -1:].float()], step.past_key_values
        for place in range(start, ids.shape[1]):
            step = model(input_ids=ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            pieces, cache = [*pieces, step.logits[:, -1:].float()], step.past_key_values
    if not logits_agree(torch.cat(pieces, dim=1), whole, parameter.dtype):
        raise ModelError(
            f"{type(model).__name__} gives other logits with a key-value cache than without",
            fix="take another attention implementation, or a newer transformers",
        )
