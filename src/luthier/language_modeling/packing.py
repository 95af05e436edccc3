"""Documents one after another, cut into blocks of one length: no token is lost, none is seen twice.

Every document ends with a separator. A block may hold several documents, and a document may go on in the next block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """What stands around the text of a block, and between documents.

    Attributes:
        length: L, tokens of a block.
        before, after: ids at its start and end, such as those of [CLS] and [SEP].
        separator: id behind each document; None puts nothing there.
    """

    length: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    separator: int | None = None

    @classmethod
    def of(cls, tokenizer: Any, length: int, *, masked: bool) -> Frame:
        """The frame of masked blocks, `[CLS] text [SEP]`, or of causal ones, text alone; documents are parted by the
        end-of-text token, which in a masked block is [SEP] where there is one."""
        end, sep, cls_id = tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id
        if not masked:
            return cls(length, separator=sep if end is None else end)
        separator = end if sep is None else sep
        before = () if cls_id is None else (cls_id,)
        return cls(length, before, () if separator is None or cls_id is None else (separator,), separator)

    @property
    def room(self) -> int:
        """Tokens of text, separators among them, in one block."""
        return self.length - len(self.before) - len(self.after)


@dataclass(frozen=True)
class Block:
    """L tokens.

    Attributes:
        ids: (L,).
        word_starts: (L,), where a word begins; None where the documents did not say.
        documents: (L,), the number of each token's document in the stream; -1 for what stands around the text.
    """

    ids: Ids
    word_starts: Flags | None
    documents: Ids


class Packer:
    """Takes documents and gives blocks; what is left over waits for the next document.

    Args:
        frame: of the blocks.
    """

    def __init__(self, frame: Frame) -> None:
        if frame.room < 1:
            raise ValueError(f"a block of {frame.length} tokens leaves no room for text")
        self.frame = frame
        self.documents = 0
        self._ids: list[Ids] = []
        self._starts: list[Flags] = []
        self._owners: list[Ids] = []

    def add(self, ids: Sequence[int] | Ids, word_starts: Sequence[bool] | Flags | None = None) -> None:
        """Take one document.

        Args:
            ids: its tokens, without special ones.
            word_starts: where a word begins; default at every token.
        """
        separator = [] if self.frame.separator is None else [self.frame.separator]
        whole = np.concatenate([np.asarray(ids, dtype=np.int64), np.asarray(separator, dtype=np.int64)])
        starts = np.ones(len(whole), dtype=np.bool_)
        if word_starts is not None:
            starts[: len(ids)] = word_starts
        self._ids.append(whole)
        self._starts.append(starts)
        self._owners.append(np.full(len(whole), self.documents, dtype=np.int64))
        self.documents += 1

    @property
    def waiting(self) -> int:
        """Tokens that are in no block yet."""
        return sum(map(len, self._ids))

    def blocks(self) -> Iterator[Block]:
        """Every whole block that can be made; each is gone from what waits when it is given."""
        self._join()
        while self._ids and len(self._ids[0]) >= self.frame.room:
            yield self._next(self.frame.room)

    def rest(self) -> Block | None:
        """What waits, as one shorter block; None where nothing does."""
        self._join()
        return self._next(len(self._ids[0])) if self.waiting else None

    def state_dict(self) -> dict[str, Any]:
        """What waits, and the number of documents so far."""
        self._join()
        return {
            "documents": self.documents,
            "ids": [int(x) for ids in self._ids for x in ids],
            "word_starts": [bool(x) for starts in self._starts for x in starts],
            "owners": [int(x) for owners in self._owners for x in owners],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.documents = int(state["documents"])
        self._ids = [np.array(state["ids"], dtype=np.int64)]
        self._starts = [np.array(state["word_starts"], dtype=np.bool_)]
        self._owners = [np.array(state["owners"], dtype=np.int64)]

    def _join(self) -> None:
        if len(self._ids) > 1:
            self._ids = [np.concatenate(self._ids)]
            self._starts = [np.concatenate(self._starts)]
            self._owners = [np.concatenate(self._owners)]

    def _next(self, size: int) -> Block:
        before, after = self.frame.before, self.frame.after
        ids = np.concatenate([np.array(before, np.int64), self._ids[0][:size], np.array(after, np.int64)])
        around = (np.ones(len(before), np.bool_), np.ones(len(after), np.bool_))
        owners = np.concatenate([np.full(len(before), -1), self._owners[0][:size], np.full(len(after), -1)])
        block = Block(ids, np.concatenate([around[0], self._starts[0][:size], around[1]]), owners)
        self._ids[0], self._starts[0], self._owners[0] = (
            self._ids[0][size:],
            self._starts[0][size:],
            self._owners[0][size:],
        )
        return block


def pack_documents(
    documents: Iterable[Sequence[int]],
    length: int,
    *,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
    separator: int | None = None,
    keep_rest: bool = True,
) -> Iterator[list[int]]:
    """Blocks of `length` tokens from documents one after another.

    Args:
        documents: token ids of each, without special ones.
        length: of a block, in tokens.
        before, after: ids at the start and end of every block.
        separator: id behind each document.
        keep_rest: whether a last, shorter block is given.
    """
    packer = Packer(Frame(length, tuple(before), tuple(after), separator))
    for document in documents:
        packer.add(document)
        for block in packer.blocks():
            yield block.ids.tolist()
    if keep_rest and (rest := packer.rest()) is not None:
        yield rest.ids.tolist()
