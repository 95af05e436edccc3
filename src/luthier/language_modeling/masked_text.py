"""How likely a text is to a masked language model: by masks that are drawn once, or with every token masked alone.

Shapes: B blocks of a batch, L tokens of a block, N blocks in all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.data.schemas import IGNORED
from luthier.language_modeling.held_out import Row, collate
from luthier.language_modeling.masking import Masking, Tokens
from luthier.language_modeling.packing import Block, Frame, Packer
from luthier.language_modeling.rows import prediction_rows
from luthier.language_modeling.stream import encoded_row, tokenized
from luthier.storage.helping import each

_TOGETHER = 128


def text_blocks(texts: Sequence[str], tokenizer: Any, length: int) -> Iterator[Block]:
    """Texts one after another in blocks of L tokens, framed as in pretraining; the last block may be shorter."""
    packer = Packer(Frame.of(tokenizer, length, masked=True))
    for start in range(0, len(texts), _TOGETHER):
        for ids, starts in tokenized(texts[start : start + _TOGETHER], tokenizer, words=False):
            packer.add(ids, starts)
        yield from packer.blocks()
    if (rest := packer.rest()) is not None:
        yield rest


def rows_by_share(blocks: Iterable[Block], masking: Masking) -> Iterator[Row]:
    """Every block once, under the mask that its number and the seed decide on."""
    for number, block in enumerate(blocks):
        yield encoded_row(block, number, masking)


def rows_by_token(blocks: Iterable[Block], masking: Masking) -> Iterator[Row]:
    """Every block as often as it has tokens, each time with another one masked alone; `row` is the block's number."""
    for number, block in enumerate(blocks):
        whole = encoded_row(block, number, None)
        for place in np.flatnonzero(~np.isin(block.ids, list(masking.never))):
            seen, labels = block.ids.copy(), np.full_like(block.ids, IGNORED)
            seen[place], labels[place] = masking.mask_token, block.ids[place]
            yield {**whole, "input_ids": seen, "labels": labels}


def scored_tokens(block: Block, masking: Masking) -> Tokens:
    """The tokens of a block that are guessed where every one is masked alone."""
    return block.ids[~np.isin(block.ids, list(masking.never))]


def likelihoods(
    model: nn.Module,
    rows: Iterable[Row],
    blocks: int,
    *,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What the masked tokens of every block come to.

    Args:
        model: with a masked-language-model head; returned to the mode it was in.
        rows: encoded; those of one block and length one after another.
        blocks: N.
        batch_size: B.
        on_batch: called with the number of rows done so far.

    Returns:
        (N,) sums of negative log-likelihoods in nats, and (N,) counts of masked tokens.
    """
    nll, items, done = np.zeros(blocks), np.zeros(blocks, dtype=np.int64), 0
    was_training = model.training
    model.eval()
    try:
        for numbers, losses, counts in each(_pass, model, _batches(rows, batch_size)):
            np.add.at(nll, numbers, losses)
            np.add.at(items, numbers, counts)
            done += len(numbers)
            if on_batch:
                on_batch(done)
    finally:
        model.train(was_training)
    return nll, items


def _batches(rows: Iterable[Row], size: int) -> Iterator[dict[str, Tensor]]:
    for _, alike in itertools.groupby(rows, key=lambda row: len(row["input_ids"])):
        while some := list(itertools.islice(alike, size)):
            yield collate(some)


def _pass(model: nn.Module, batch: dict[str, Tensor]) -> tuple[list[int], list[float], list[int]]:
    """Of every row of a batch: its block, the sum of its losses, and how many there are."""
    device = next(model.parameters()).device
    labels = batch["labels"].to(device)
    inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        losses = prediction_rows(model, labels, shifted=False, inputs=inputs).losses().double()
    counts = labels.ne(IGNORED).sum(dim=1)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
    sums = torch.zeros(len(counts), dtype=torch.float64, device=device).index_add_(0, owner, losses)
    return batch["row"].tolist(), sums.tolist(), counts.tolist()
