"""How processes share a row: which columns each has, and a batch of rows as one of them takes it.

A row is cut into 2R pieces, of which process r has the r-th and the r-th from the end. A query looks back alone, so
that the work of a piece grows with its place, and that of two such pieces together is the same in all processes.
Source: Grattafiori et al., “The Llama 3 Herd of Models” (2024), section 3.3.2.

Shapes: R processes that share a row, B rows, L tokens, S = L / R of them in a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.data.schemas import IGNORED

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class RowSlices:
    """The share of one process in every row.

    Attributes:
        processes: R, that share a row.
        number: r, which of them this one is.
    """

    processes: int
    number: int

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """First column, and the one behind the last, of both pieces of this process.

        Args:
            length: L, a multiple of 2R.
        """
        size, rest = divmod(length, 2 * self.processes)
        if rest:
            raise ValueError(f"a row of {length} tokens can't be cut into {2 * self.processes} equal pieces")
        return [(n * size, (n + 1) * size) for n in (self.number, 2 * self.processes - 1 - self.number)]

    def of(self, rows: Tensor) -> Tensor:
        """(..., S), the columns of this process of (..., L)."""
        return torch.cat([rows[..., start:end] for start, end in self.pieces(rows.shape[-1])], dim=-1)

    def of_batch(self, batch: Batch) -> Batch:
        """What this process takes of a batch.

        A label is put at the position that predicts it, since that may be in another slice, and the first column that
        each position may look at stands where a mask would: with its own column it says all that a mask does.

        Args:
            batch: `input_ids` and `labels`, and `position_ids` where these begin anew with each document, all (B, L),
                without padding; `row` stays as it is.

        Returns:
            `input_ids`, `labels` and `position_ids` (B, S), and `attention_mask` (B, 1, 1, S) of column numbers.
        """
        ids = batch["input_ids"]
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        positions = batch.get("position_ids", columns)
        following = torch.full_like(batch["labels"], IGNORED)
        following[:, :-1] = batch["labels"][:, 1:]
        return {
            "input_ids": self.of(ids),
            "position_ids": self.of(positions),
            "labels": self.of(following),
            "attention_mask": self.of(columns - positions)[:, None, None],
            **{name: batch[name] for name in ("row",) if name in batch},
        }

    def in_order(self, slices: Tensor) -> Tensor:
        """(..., L, c), whole rows, of the (R, ..., S, c) slices of all processes."""
        heads, tails = slices.chunk(2, dim=-2)
        return torch.cat([*heads, *tails.flip(0)], dim=-2)

    def by_process(self, rows: Tensor) -> Tensor:
        """(R, ..., S, c), the slices of all processes, of (..., L, c) whole rows."""
        pieces = rows.chunk(2 * self.processes, dim=-2)
        return torch.stack([torch.cat([pieces[r], pieces[-1 - r]], dim=-2) for r in range(self.processes)])


@dataclass(frozen=True)
class SlicedBatches:
    """A collator that gives what one process takes of a batch of whole rows.

    Attributes:
        collator: of whole rows.
        slices: of the process.
    """

    collator: Callable[[list[Any]], Batch]
    slices: RowSlices

    def __call__(self, rows: list[Any]) -> Batch:
        return self.slices.of_batch(self.collator(rows))
