"""Texts, or pairs of texts, as padded batches of similar length.

Shapes: B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from luthier.data.batches.encoding import encode_rows, make_collator
from luthier.data.batches.notes import rows_before
from luthier.errors import DataError
from luthier.progress import track

# A single string is one text.
Texts = str | Sequence[str] | Sequence[tuple[str, str]]
TextList = Sequence[str] | Sequence[tuple[str, str]]


def listed(texts: Texts) -> TextList:
    """The texts; a single string is one of them, not its characters."""
    return [texts] if isinstance(texts, str) else texts


def batches_of(
    texts: Texts, tokenizer: Any, *, max_length: int, too_long: str, batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Batches, the longest texts first.

    Args:
        texts: single texts, or pairs that are read together.
        max_length: tokens, with the special ones.
        too_long: `truncate` cuts longer texts and logs how many; `error` refuses them.
        batch_size: B, at most.

    Yields:
        Places of the B texts, and their tensors (B, T).

    Raises:
        DataError: an entry that is no text, or too long a text that may not be cut.
    """
    rows, schema = _rows(listed(texts))
    if not rows:
        return
    encoded = encode_rows(rows, schema, tokenizer, max_length=max_length, too_long=too_long)
    collate = make_collator(schema, tokenizer)
    order = np.argsort([-n for n in encoded["length"]], kind="stable")
    with track("encoding text", len(rows)) as bar:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = collate([encoded[int(i)] for i in places])
            yield places, {name: x for name, x in batch.items() if name != "row"}
            bar.update(start + len(places))


def are_pairs(texts: Texts) -> bool:
    """Whether these are pairs of texts."""
    return bool(len(texts)) and not isinstance(texts[0], str)


def _rows(texts: TextList) -> tuple[list[dict[str, str]], str]:
    rows: list[dict[str, str]] = []
    pairs = are_pairs(texts)
    for number, entry in enumerate(texts, rows_before() + 1):
        parts: list[Any] = list(entry) if isinstance(entry, tuple | list) else [entry]
        if len(parts) != 1 + pairs or not all(isinstance(part, str) for part in parts):
            wanted = "a pair of texts, as the first one is" if pairs else "a text"
            raise DataError(f"text {number} is {entry!r}, but must be {wanted}")
        rows.append(dict(zip(("text", "text_pair"), parts, strict=False)))
    return rows, "pair" if pairs else "single_sentence"
