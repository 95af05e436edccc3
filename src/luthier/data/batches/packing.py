"""Texts one after another, in blocks of tokens that fill the room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from luthier.data.batches.encoders import Columns, Encoded, Encoder

PACKED_TOGETHER = 256


class Packer:
    """Tokens of texts, parted by the end-of-text token, that are cut into blocks; `row` of a block is that of its first
    token.

    Attributes:
        ids: tokens that no block has yet.
        owners: the row of each.
    """

    def __init__(self, encoder: Encoder, ids: Sequence[int] = (), owners: Sequence[int] = ()) -> None:
        self._encoder, self.ids, self.owners = encoder, list(ids), list(owners)
        end = encoder.tokenizer.eos_token_id
        self._end = encoder.tokenizer.sep_token_id if end is None else end

    def add(self, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> None:
        """The tokens of texts that come next, and the number of the row of each."""
        end = [] if self._end is None else [self._end]
        for row, tokens in zip(rows, texts, strict=True):
            self.ids += [*tokens, *end]
            self.owners += [row] * (len(tokens) + len(end))

    def blocks(self) -> Iterator[dict[str, Any]]:
        """Blocks that fill the room, while there are any."""
        while len(self.ids) >= self._encoder.room:
            yield self._cut(self._encoder.room)

    def rest(self) -> Iterator[dict[str, Any]]:
        """What is left as one shorter block; nothing of a single token, which predicts nothing."""
        if len(self.ids) > 1:
            yield self._cut(len(self.ids))
        self.ids.clear()
        self.owners.clear()

    def _cut(self, size: int) -> dict[str, Any]:
        ids, row = self.ids[:size], self.owners[0]
        del self.ids[:size], self.owners[:size]
        return {"input_ids": ids, "attention_mask": [1] * size, "labels": list(ids), "row": row, "length": size}


def tokens_of(texts: Sequence[str], encoder: Encoder) -> list[list[int]]:
    """The tokens of each text, without special ones."""
    found: list[list[int]] = encoder.tokenize(list(texts), add_special_tokens=False)["input_ids"]
    return found


def encode_blocks(columns: Columns, encoder: Encoder) -> Encoded:
    """All texts in blocks; only the last one may be shorter than the room."""
    packer = Packer(encoder)
    blocks: list[dict[str, Any]] = []
    rows, texts = list(columns["row"]), list(columns["text"])
    for start in range(0, len(rows), PACKED_TOGETHER):
        some = slice(start, start + PACKED_TOGETHER)
        packer.add(rows[some], tokens_of(texts[some], encoder))
        blocks += packer.blocks()
    blocks += packer.rest()
    return {key: [block[key] for block in blocks] for key in blocks[0]} if blocks else {}
