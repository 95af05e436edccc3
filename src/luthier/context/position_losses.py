"""The loss at every position of a text: whether more context makes the next token easier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.errors import DataError
from luthier.language_modeling.packing import Frame, Packer
from luthier.language_modeling.rows import prediction_rows
from luthier.language_modeling.stream import tokenized

Numbers = NDArray[np.float64]
_TOGETHER = 64


def text_rows(documents: Sequence[str], tokenizer: Any, length: int, most: int) -> NDArray[np.int64]:
    """(N, L) tokens of documents one after another, at most `most` rows.

    Raises:
        DataError: they fill no row.
    """
    packer = Packer(Frame.of(tokenizer, length, masked=False))
    rows: list[Any] = []
    for start in range(0, len(documents), _TOGETHER):
        for ids, _ in tokenized(
            [one for one in documents[start : start + _TOGETHER] if one.strip()], tokenizer, words=False
        ):
            packer.add(ids)
        rows += [block.ids for block in packer.blocks()]
        if len(rows) >= most:
            break
    if not rows:
        raise DataError(f"the texts fill no row of {length:,} tokens", fix="give more text, or take a shorter length")
    return np.stack(rows[:most])


def losses_by_position(
    model: Any, rows: NDArray[np.int64], *, batch_size: int = 8, on_batch: Callable[[int], None] | None = None
) -> Numbers:
    """(N, L - 1) cross-entropy of token t + 1 given the t + 1 tokens before it, in nats.

    Args:
        model: a causal language model.
        rows: (N, L) token ids.
        batch_size: rows in one pass.
        on_batch: told how many rows are done.
    """
    device = next(model.parameters()).device
    was_training, found = model.training, []
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            ids = torch.as_tensor(rows[start : start + batch_size], device=device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.no_grad():
                losses = prediction_rows(model, ids, shifted=True, inputs=inputs).losses()
            found.append(losses.reshape(len(ids), -1).double().cpu().numpy())
            if on_batch:
                on_batch(min(start + batch_size, len(rows)))
    finally:
        model.train(was_training)
    return np.concatenate(found)


def smoothed(losses: Numbers, window: int) -> tuple[Numbers, Numbers]:
    """Positions and mean losses over `window` positions at a time, as the paper's curve over 500.

    Args:
        losses: (N, L - 1).
        window: positions.
    """
    means = losses.mean(axis=0)
    starts = np.arange(0, len(means), window)
    return (
        (starts + np.minimum(starts + window, len(means))) / 2,
        np.array([means[start : start + window].mean() for start in starts]),
    )


def by_context(losses: Numbers, points: int = 24, least: int = 16) -> tuple[Numbers, Numbers]:
    """Context lengths c in even steps of their logarithm, and the loss of every row around each.

    Args:
        losses: (N, L - 1); column t has t + 1 tokens of context.
        points: most context lengths.
        least: the first one.

    Returns:
        (C,) and (N, C); C is 0 where there are no more than `least` columns.
    """
    columns = losses.shape[1]
    ends = np.unique(np.geomspace(min(least, columns), columns, points + 1).round().astype(int))
    parts = [(low, high) for low, high in pairwise(ends) if high > low]
    centres = np.array([np.sqrt((low + 1.0) * high) for low, high in parts])
    found = np.array([losses[:, low:high].mean(axis=1) for low, high in parts])
    return centres, found.reshape(len(parts), len(losses)).T
