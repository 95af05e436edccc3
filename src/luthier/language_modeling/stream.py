"""Packed, masked blocks of a corpus without an end, which know where they are.

The order is decided by the corpus, the settings and the seed alone. A pass over the corpus reads windows of documents,
shuffles each, packs what is not held out, and starts again when the corpus ends: what is left over at the end of a pass
opens the next one, so that no token is lost. Where it is, is the place of the window in the corpus, how much of it was
taken, and what waits to be packed: going on reads at most one window again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from luthier.data.batches.tokens import token_columns
from luthier.data.batches.workers import InOrder
from luthier.errors import DataError
from luthier.language_modeling.documents import START, Corpus, Document, Place, is_held_out
from luthier.language_modeling.masking import Masking
from luthier.language_modeling.packing import Block, Frame, Packer

# Documents that are tokenized together, and characters after which a window is full however few its documents are.
_TOGETHER = 128
_WINDOW_CHARACTERS = 32_000_000


@dataclass(frozen=True)
class Share:
    """The rows that one of several processes gets: of every `processes * batch_size`, the `process`-th `batch_size`."""

    process: int = 0
    processes: int = 1
    batch_size: int = 1

    def holds(self, row: int) -> bool:
        """Whether a row of the whole stream, from 0, is this process's."""
        return row // self.batch_size % self.processes == self.process


class PackedStream(IterableDataset[dict[str, Any]]):
    """Encoded rows of L tokens: `input_ids`, `attention_mask` and `labels`, int64 arrays, and `row`, the number of the
    block in the stream from 0. A causal row's labels are its tokens; a masked one's are -100 off the masked positions.

    Args:
        corpus: the documents.
        tokenizer: a fast one.
        frame: of the blocks.
        masking: how they are masked; None leaves them as they are, for a causal model.
        seed: of the order.
        window: documents that are shuffled together; 0 keeps their order.
        held_out: share of the documents that is left out.
        share: the rows that this process gets.
        workers: processes that tokenize the text that comes next; 0 does it here. Rows and order are the same.
        copies: name -> masking of a second copy of every row, as `input_ids@NAME` and `labels@NAME`.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Any,
        frame: Frame,
        *,
        masking: Masking | None = None,
        seed: int = 0,
        window: int = 0,
        held_out: float = 0.0,
        share: Share | None = None,
        workers: int = 0,
        copies: Mapping[str, Masking] | None = None,
    ) -> None:
        self.corpus, self.tokenizer, self.frame, self.masking = corpus, tokenizer, frame, masking
        self.copies = dict(copies or {})
        self.seed, self.window, self.held_out, self.share = seed, window, held_out, share or Share()
        self._packer = Packer(frame)
        self._epoch, self._row, self._place, self._window_number, self._taken = 0, 0, START, 0, 0
        words = masking is not None and masking.whole_words
        self._work = InOrder(partial(_arrays, tokenizer, words, held_out), workers)

    @property
    def workers(self) -> int:
        """Processes that tokenize its text, beside this one."""
        return self._work.workers

    def close(self) -> None:
        """End the workers; whoever iterates again starts others."""
        self._work.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, behind the row that was given last."""
        return {
            "epoch": self._epoch,
            "row": self._row,
            "place": dict(self._place),
            "window": self._window_number,
            "taken": self._taken,
            "packer": self._packer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, with the next pass over the stream."""
        self._epoch, self._row = int(state["epoch"]), int(state["row"])
        self._place, self._window_number = dict(state["place"]), int(state["window"])
        self._taken = int(state["taken"])
        self._packer.load_state_dict(state["packer"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises:
        DataError: a source can't be read, or a whole pass gives no text.
        """
        for block in self.blocks():
            number, self._row = self._row, self._row + 1
            if self.share.holds(number):
                row = encoded_row(block, number, self.masking)
                for name, masking in self.copies.items():
                    copy = encoded_row(block, number, masking)
                    row |= {f"{field}@{name}": copy[field] for field in ("input_ids", "labels")}
                yield row

    def blocks(self) -> Iterator[Block]:
        """The blocks of all processes, without their masks."""
        while True:
            yield from self._packer.blocks()  # of a document that was taken before the stream stopped
            before, whole_pass = self._packer.documents, self._window_number == self._taken == 0
            for documents, behind in self._work(self._groups()):
                self._place, self._window_number, self._taken = behind
                for ids, starts in documents:
                    self._packer.add(ids, starts)
                yield from self._packer.blocks()
            if whole_pass and self._packer.documents == before:
                raise nothing_to_train_on(self.corpus)
            self._epoch, self._place, self._window_number, self._taken = self._epoch + 1, START, 0, 0

    def texts(self) -> Iterator[list[str]]:
        """The texts of one pass over the corpus that are trained on, some at a time, in the corpus's order."""
        documents = self.corpus.documents()
        while some := _take(documents, _TOGETHER):
            yield [one.text for one in some if not is_held_out(one.text, self.held_out)]

    def _groups(self) -> Iterator[tuple[list[str], tuple[Place, int, int]]]:
        """Texts that are tokenized together, from where the stream is to the end of the pass; and where it is behind
        them: the place and the number of their window, and how many of its documents were taken."""
        epoch, place, number, taken = self._epoch, self._place, self._window_number, self._taken
        documents = self.corpus.documents(place)
        while window := _take(documents, self.window or _TOGETHER):
            order = np.arange(len(window))
            if self.window:
                order = np.random.default_rng([self.seed, epoch, number]).permutation(order)
            for start in range(taken, len(order), _TOGETHER):
                behind = place, number, min(start + _TOGETHER, len(order))
                yield [window[i].text for i in order[start : start + _TOGETHER]], behind
            place, number, taken = window[-1].after, number + 1, 0


def nothing_to_train_on(corpus: Corpus) -> DataError:
    """What is wrong with a text all of whose documents are held out, or have no tokens."""
    return DataError(
        "the text has no documents to train on",
        where=", ".join(one.name for one in corpus.sources),
        fix="name other text, or hold less of it out",
    )


def _arrays(tokenizer: Any, words: bool, held_out: float, texts: list[str]) -> list[tuple[Any, Any]]:
    """Token ids of the texts that are not held out, and where words begin, or None."""
    kept = [text for text in texts if not is_held_out(text, held_out)]
    return [
        (np.asarray(ids, np.int64), None if starts is None else np.asarray(starts, np.bool_))
        for ids, starts in tokenized(kept, tokenizer, words=words)
    ]


def encoded_row(block: Block, number: int, masking: Masking | None) -> dict[str, Any]:
    """The encoded row of a block, masked by its number."""
    seen, labels = block.ids, block.ids
    if masking is not None:
        seen, labels = masking.apply(block.ids, number, block.word_starts)
    return {"input_ids": seen, "attention_mask": np.ones_like(seen), "labels": labels, "row": number}


def tokenized(texts: Sequence[str], tokenizer: Any, *, words: bool) -> Iterator[tuple[Sequence[int], Any]]:
    """Token ids of each text, without special tokens, and where words begin, or None.

    Text that looks like a special token stays text.
    """
    if not texts:
        return
    if not words:
        found = token_columns(tokenizer, texts, add_special_tokens=False, split_special_tokens=True)
        yield from ((ids, None) for ids in found["input_ids"] if ids)
        return
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=True,
        verbose=False,
    )
    for number, ids in enumerate(encoded["input_ids"]):
        if ids:
            yield ids, _starts(encoded.word_ids(number))


def _starts(owners: Sequence[int | None]) -> list[bool]:
    return [place == 0 or word is None or word != owners[place - 1] for place, word in enumerate(owners)]


def _take(documents: Iterator[Document], most: int) -> list[Document]:
    taken: list[Document] = []
    characters = 0
    for document in itertools.islice(documents, most):
        taken.append(document)
        characters += len(document.text)
        if characters >= _WINDOW_CHARACTERS:
            break
    return taken
