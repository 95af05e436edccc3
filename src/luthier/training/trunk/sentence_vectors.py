"""Sentence vectors of a data set, computed once with the frozen model or from word vectors, and kept on disk.

A vector is found by the token ids it stands for and their segments, without padding. So one store serves any order,
batch and split, and equal texts are computed once.

Shapes: N distinct texts, B rows of a batch, T tokens, g vector width.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.models.layers.placement import context_columns
from luthier.models.layers.trunk import Trunk, bare_pass, find_trunk
from luthier.storage.arrays import evaluating, identity, packed, weights_fingerprint
from luthier.storage.files import sha256_of
from luthier.storage.keyed_vectors import FORMAT, KEY_BYTES, KeyedVectors

_SEGMENTS = "token_type_ids"
# Adapters, and what is computed from the vectors and not for them.
_NOT_OF_THE_BODY = ("instance_prompt.", "modules_to_save.", "pooler.")
Row = Mapping[str, Any]


class SentenceVectors(KeyedVectors):
    """A store of the vectors of N texts."""

    of = "sentence vectors"

    def of_rows(self, rows: Sequence[Row], *, predicts_tokens: bool = False) -> Tensor:
        """Encoded rows -> their vectors (B, g), float32.

        Args:
            rows: as they were computed.
            predicts_tokens: whether they are for a language model.

        Raises:
            KeyError: a row is not in the store.
        """
        found = self.find([_row_key(_text_of(row, predicts_tokens)) for row in rows])
        if found is None:
            raise KeyError("a row has no sentence vector: compute them for all rows")
        return found

    def of_tokens(
        self, ids: Tensor, mask: Tensor, last: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor | None:
        """Padded token ids (B, T) -> vectors (B, g), float32; None where one of them is not in the store.

        Args:
            ids: token ids.
            mask: (B, T), 1 at real tokens.
            last: (B,) column up to which the text reaches; all of it by default.
            segments: `token_type_ids` (B, T), where the model is fed any.
        """
        real = mask.cpu().numpy().astype(bool)
        if last is not None:
            real = real & (np.arange(real.shape[1])[None] <= last.cpu().numpy()[:, None])
        parts = [ids] if segments is None else [ids, segments.expand_as(ids)]
        tables = [part.cpu().numpy() for part in parts]
        return self.find([_key(*(table[row][kept] for table in tables)) for row, kept in enumerate(real)])


def compute_sentence_vectors(
    model: Any,
    rows: Iterable[Row],
    directory: str | Path,
    *,
    batch_size: int = 64,
    dtype: str = "float32",
    pooling: str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> SentenceVectors:
    """The frozen model's vectors of all rows, from a pass without prompts, in evaluation mode.

    What was computed before with equal weights, token ids and settings is opened and not computed again. A store
    is complete or not there. For language models a row stands for its tokens in front of the first labelled one.

    Args:
        model: a transformers model, or a PEFT model with an instance prompt.
        rows: encoded rows with `input_ids`, and `token_type_ids` and `labels` where there are any.
        directory: holds stores, each in a folder of its own.
        batch_size: rows of one pass.
        dtype: of the stored numbers, float32 or bfloat16.
        pooling: first, last or mean; None takes the adapter's, or what fits the model.
        on_batch: called with the number of texts done so far.

    Raises:
        ValueError: an unknown dtype, or no rows.
        WorkspaceError: the directory can't be written.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    trunk = find_trunk(base)
    pooling = pooling or _adapter_pooling(model) or trunk.pooling
    texts = _distinct(rows, trunk.predicts_tokens)
    name = identity([str(FORMAT), _weights(trunk), pooling, dtype, *(key.hex() for key in texts)])

    def fill(store: np.ndarray, places: dict[bytes, int]) -> None:
        keys = sorted(texts, key=lambda key: (-len(texts[key]["input_ids"]), key))
        with evaluating(base):
            for start in range(0, len(keys), batch_size):
                picked = keys[start : start + batch_size]
                vectors = _pass([texts[key] for key in picked], trunk, pooling)
                store[[places[key] for key in picked]] = packed(vectors, dtype)
                if on_batch:
                    on_batch(start + len(picked))

    return SentenceVectors.kept_or_made(Path(directory), name, list(texts), width=trunk.width, dtype=dtype, fill=fill)


def compute_word_vectors(
    file: str | Path,
    rows: Iterable[Row],
    tokenizer: Any,
    directory: str | Path,
    *,
    dtype: str = "float32",
    predicts_tokens: bool = False,
) -> SentenceVectors:
    """The mean of the word vectors of each row's text, for `vector_source="given"`.

    The text is split on blanks, stripped of punctuation and lower-cased. A text without a known word gets zeros, so
    that results do not depend on chance. Source: Wu et al., NAACL 2022, section 4 (GloVe form).

    Args:
        file: a word and its numbers a line, separated by blanks, as GloVe files are.
        rows: encoded rows with `input_ids`.
        tokenizer: turns them back into text.
        directory, dtype: as in `compute_sentence_vectors`.
        predicts_tokens: for a language model, so that only what stands in front of the labels counts.

    Raises:
        ValueError: the file is not of that form, or there are no rows.
        WorkspaceError: the directory can't be written.
    """
    texts = _distinct(rows, predicts_tokens)
    words = {key: _words(tokenizer.decode(row["input_ids"], skip_special_tokens=True)) for key, row in texts.items()}
    path = Path(file)
    said = (key.hex() + " ".join(words[key]) for key in texts)
    name = identity([str(FORMAT), "words", sha256_of(path), dtype, *said])
    table = read_word_vectors(path, {word for some in words.values() for word in some})
    width = table.pop("", np.zeros(0, np.float32)).shape[0]

    def fill(store: np.ndarray, places: dict[bytes, int]) -> None:
        for key, place in places.items():
            known = [table[word] for word in words[key] if word in table]
            mean = np.mean(known, 0, dtype=np.float32) if known else np.zeros(width, np.float32)
            store[place] = packed(torch.from_numpy(mean), dtype)

    return SentenceVectors.kept_or_made(Path(directory), name, list(texts), width=width, dtype=dtype, fill=fill)


def read_word_vectors(path: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """The wanted words' vectors (g,) of a text file; the empty word has zeros of that width.

    Raises:
        ValueError: a line that is no word with as many numbers as the lines before.
    """
    table: dict[str, np.ndarray] = {}
    width = None
    with path.open(encoding="utf8") as lines:
        for number, line in enumerate(lines, 1):
            word, *values = line.rstrip("\n").split(" ")
            width = len(values) if width is None else width
            if not width or len(values) != width:
                raise ValueError(f"{path}, line {number}: {len(values)} numbers, where {width or 'some'} are expected")
            if word in wanted:
                try:
                    table[word] = np.array(values, dtype=np.float32)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
    if width is None:
        raise ValueError(f"{path} holds no word vectors")
    return {**table, "": np.zeros(width, np.float32)}


def with_sentence_vectors(
    collator: Callable[[Sequence[Row]], dict[str, Any]], store: SentenceVectors, *, predicts_tokens: bool = False
) -> Callable[[Sequence[Row]], dict[str, Any]]:
    """A collator whose batches carry `sentence_vectors` (B, g) beside what the given one puts in."""

    def collate(rows: Sequence[Row]) -> dict[str, Any]:
        return {**collator(rows), "sentence_vectors": store.of_rows(rows, predicts_tokens=predicts_tokens)}

    return collate


def _text_of(row: Row, predicts_tokens: bool) -> dict[str, np.ndarray]:
    """Token ids of a row's context, and their segments where it has any."""
    text = {"input_ids": _context(row, predicts_tokens)}
    if row.get(_SEGMENTS) is not None:
        text[_SEGMENTS] = np.asarray(row[_SEGMENTS], dtype=np.int64)[: len(text["input_ids"])]
    return text


def _context(row: Row, predicts_tokens: bool) -> np.ndarray:
    ids = np.asarray(row["input_ids"], dtype=np.int64)
    labels = row.get("labels")
    if not predicts_tokens or labels is None:
        return ids
    end = context_columns(torch.as_tensor(labels)[None])
    return ids[: int(end) + 1]


def _key(ids: np.ndarray, segments: np.ndarray | None = None) -> bytes:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in (ids,) if segments is None else (ids, segments):
        digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
    return digest.digest()


def _row_key(text: dict[str, np.ndarray]) -> bytes:
    return _key(text["input_ids"], text.get(_SEGMENTS))


def _distinct(rows: Iterable[Row], predicts_tokens: bool) -> dict[bytes, Row]:
    """By key, in the order of the keys, one row each, cut to the context."""
    found: dict[bytes, Row] = {}
    for row in rows:
        text = _text_of(row, predicts_tokens)
        found.setdefault(_row_key(text), text)
    if not found:
        raise ValueError("there are no rows to compute sentence vectors of")
    return dict(sorted(found.items()))


def _pass(rows: list[Row], trunk: Trunk, pooling: str) -> Tensor:
    device = trunk.module.get_input_embeddings().weight.device
    width = max(len(row["input_ids"]) for row in rows)
    call: dict[str, Any] = {}
    for name, filler in (("input_ids", getattr(trunk.config, "pad_token_id", None) or 0), (_SEGMENTS, 0)):
        if any(name in row for row in rows):
            table = np.full((len(rows), width), filler, dtype=np.int64)
            for i, row in enumerate(rows):
                if name in row:
                    table[i, : len(row[name])] = row[name]
            call[name] = torch.from_numpy(table).to(device)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows], device=device)
    mask = (torch.arange(width, device=device)[None] < lengths[:, None]).long()
    call["attention_mask"] = mask
    return bare_pass(trunk, call, mask, pooling)


def _weights(trunk: Trunk) -> str:
    return weights_fingerprint(trunk.module, lambda name: not any(part in name for part in _NOT_OF_THE_BODY))


def _adapter_pooling(model: Any) -> str | None:
    configs = getattr(model, "peft_config", {})
    active = configs.get(getattr(model, "active_adapter", None))
    return getattr(active, "pooling", None)


def _words(text: str) -> list[str]:
    return [word for piece in text.split() if (word := piece.strip(string.punctuation).lower())]
