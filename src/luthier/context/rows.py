"""Rows of one step's length from a stream of packed documents, which knows where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from luthier.context.curriculum import LengthCurriculum
from luthier.context.mixture import Mixture
from luthier.data.schemas import IGNORED
from luthier.language_modeling.packing import Block, Frame, Packer
from luthier.language_modeling.stream import Share

DocumentMask = Literal["none", "block"]
Row = dict[str, Any]
Collator = Callable[[Sequence[Row]], dict[str, Tensor]]
# Tokens of left context that the report counts tokens above of, and the ends of its histogram of documents.
CONTEXTS = (1024, 4096, 16_384)
LENGTHS = (64, 256, 1024, 4096, 16_384, 65_536)


def restarted_positions(documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K, L) positions that begin at 0 with every row and every document.

    Args:
        documents: (K, L), the number of each token's document.
    """
    columns = np.broadcast_to(np.arange(documents.shape[1]), documents.shape)
    starts = np.ones(documents.shape, dtype=np.bool_)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return np.asarray(columns - np.maximum.accumulate(np.where(starts, columns, 0), axis=1))


def rows_of_block(block: Block, number: int, length: int, mask: DocumentMask) -> Row:
    """A block cut into K rows of `length` tokens, as a model takes them.

    Under `block` documents do not see each other: positions restart with each, there is no attention mask, which is
    how transformers is told, and the first token of a document is no label. Under `none` they are one text.

    Args:
        block: K * length tokens.
        number: of the block in the stream.
        length: L of the rows.
        mask: which.

    Returns:
        `input_ids` and `labels` (K, L), `position_ids` or `attention_mask` (K, L), and `row`.
    """
    ids = block.ids.reshape(-1, length)
    if mask == "none":
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": ids, "row": number}
    positions = restarted_positions(block.documents.reshape(-1, length))
    labels = np.where(positions == 0, IGNORED, ids)
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "row": number}


def collate_rows(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Blocks of one step as a batch of (B K, L) tensors; `row` is (B,)."""
    batch = {name: torch.as_tensor(np.concatenate([row[name] for row in rows])) for name in rows[0] if name != "row"}
    return {**batch, "row": torch.tensor([row["row"] for row in rows])}


def packing_collator(model: Any, mask: DocumentMask, collate: Collator) -> Collator:
    """How rows of packed documents become a batch for a model: `collate`, and under FlashAttention, which tells
    documents apart by their positions in a pass of one row alone, all of them one behind another.

    Args:
        model: that takes the batches.
        mask: whether documents see each other.
        collate: makes `input_ids`, `labels`, `position_ids` and others of shape (B, L), and `row`.
    """
    if mask == "none" or not model.config._attn_implementation.startswith("flash_attention"):
        return collate
    return lambda rows: in_one_row(collate(rows))


def in_one_row(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of (B, L) as one of (1, B L). What begins a document follows no token of its own, and is no label."""
    flat = {name: values if name == "row" else values.reshape(1, -1) for name, values in batch.items()}
    return {**flat, "labels": flat["labels"].masked_fill(flat["position_ids"] == 0, IGNORED)}


@dataclass
class StreamReport:
    """What a stream has given: all counts are of tokens in rows, separators among them.

    Attributes:
        tokens: domain -> tokens.
        documents: domain -> documents that ended.
        lengths: domain -> tokens by the length of their document, in the bins of `LENGTHS` and above.
        left: for each of `CONTEXTS`, tokens with more left context in their own document and row.
    """

    tokens: dict[str, int] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    left: list[int] = field(default_factory=lambda: [0] * len(CONTEXTS))

    @property
    def total(self) -> int:
        """Tokens of all domains."""
        return sum(self.tokens.values())

    def add(self, block: Block, length: int, owners: Mapping[int, tuple[str, int]]) -> None:
        """Count a block.

        Args:
            block: that was given.
            length: of the rows that it was cut into.
            owners: number of a document -> its domain and its tokens.
        """
        numbers, counts = np.unique(block.documents, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            domain, whole = owners[number]
            self.tokens[domain] = self.tokens.get(domain, 0) + count
            bins = self.lengths.setdefault(domain, [0] * (len(LENGTHS) + 1))
            bins[int(np.searchsorted(LENGTHS, whole, side="left"))] += count
            self.documents.setdefault(domain, 0)
        positions = restarted_positions(block.documents.reshape(-1, length))
        self.left = [before + int((positions > least).sum()) for before, least in zip(self.left, CONTEXTS, strict=True)]

    def shares(self) -> dict[str, float]:
        """Share of tokens with more than each of `CONTEXTS` tokens of left context."""
        return {f"{least:,}": count / max(1, self.total) for least, count in zip(CONTEXTS, self.left, strict=True)}


class CurriculumRows(IterableDataset[Row]):
    """Packed rows without an end, cut to the length of the step that they belong to.

    Args:
        mixture: where documents come from.
        frame: of the longest rows.
        curriculum: lengths of the steps.
        steps: of the whole training.
        step_rows: longest rows of one optimiser step, of all processes.
        mask: whether documents see each other.
        share: the rows that this process gets.
    """

    def __init__(
        self,
        mixture: Mixture,
        frame: Frame,
        curriculum: LengthCurriculum,
        *,
        steps: int,
        step_rows: int,
        mask: DocumentMask = "none",
        share: Share | None = None,
    ) -> None:
        self.mixture, self.curriculum, self.steps, self.step_rows = mixture, curriculum, steps, step_rows
        self.mask, self.share = mask, share or Share()
        self.switches = curriculum.switches(steps)
        self.report = StreamReport()
        self._packer, self._row = Packer(frame), 0
        self._owners: dict[int, tuple[str, int, int]] = {}  # domain, tokens, and those that are in no row yet

    def length_of(self, row: int) -> int:
        """Tokens that row `row` of the stream is cut into."""
        step = row // self.step_rows
        place = max(n for n, start in enumerate(self.switches) if start <= step)
        return self.curriculum.stages[place][0]

    def __iter__(self) -> Iterator[Row]:
        """Raises:
        DataError: a source can't be read, or gives no document.
        """
        for block in self.blocks():
            number, self._row = self._row, self._row + 1
            length = self.length_of(number)
            self._count(block, length)
            if self.share.holds(number):
                yield rows_of_block(block, number, length, self.mask)

    def count_to(self, row: int) -> None:
        """Count the rows of other processes behind the last one of this, up to row `row`, which was not given.

        Raises:
            DataError: a source can't be read.
        """
        blocks = self.blocks()
        while self._row < row:
            self._count(next(blocks), self.length_of(self._row))
            self._row += 1

    def blocks(self) -> Iterator[Block]:
        """The longest rows of all processes."""
        while True:
            yield from self._packer.blocks()
            document = self.mixture.next()
            tokens = len(document.ids) + (self._packer.frame.separator is not None)
            self._owners[self._packer.documents] = (document.domain, tokens, tokens)
            self._packer.add(document.ids)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, behind the row that was given last, and what it has given."""
        return {
            "row": self._row,
            "mixture": self.mixture.state_dict(),
            "packer": self._packer.state_dict(),
            "owners": [[number, *one] for number, one in self._owners.items()],
            "report": {
                "tokens": dict(self.report.tokens),
                "documents": dict(self.report.documents),
                "lengths": {name: list(bins) for name, bins in self.report.lengths.items()},
                "left": list(self.report.left),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, with the next pass over the stream."""
        self._row = int(state["row"])
        self.mixture.load_state_dict(state["mixture"])
        self._packer.load_state_dict(state["packer"])
        self._owners = {int(number): (domain, int(whole), int(left)) for number, domain, whole, left in state["owners"]}
        self.report = StreamReport(**{name: _copied(value) for name, value in state["report"].items()})

    def _count(self, block: Block, length: int) -> None:
        self.report.add(block, length, {number: one[:2] for number, one in self._owners.items()})
        numbers, counts = np.unique(block.documents, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            domain, tokens, waiting = self._owners[number]
            self._owners[number] = (domain, tokens, waiting - count)
            if waiting == count:
                del self._owners[number]
                self.report.documents[domain] += 1


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: list(one) if isinstance(one, list) else one for name, one in value.items()}
    return list(value)
