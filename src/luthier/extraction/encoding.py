"""Documents -> token ids, where their words are among them, and what is annotated; and batches of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.data.batches.collating import Padding, padded_inputs
from luthier.data.batches.encoders import Encoded, Encoder
from luthier.extraction.types import Types
from luthier.extraction.windows import windows

_NOTHING = -1
_UNSURE = ("ignore", "ignore_pairs", "ignore_types")


def encode_documents(columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
    """Texts in windows that the model can read, one row each.

    Every row has `first_word`, the place of its first word in the text; `word_start` and `word_end`, the first piece of
    every word and the one behind its last; and, of annotated texts, `entities` and `relations` that lie in the window
    as a whole: (first word, word behind the last, type from 1) and (head, tail, type from 0) in a flat list. Where the
    texts are partly annotated, `unknown_words` and `unknown_types`, 1 for every word and every type (of entities, then
    of relations) of which nothing is known, and `unknown_pairs`, (head, tail) in a flat list.

    Args:
        columns: `tokens` and `row`; `entities`, `relations` and what is not known where they are annotated.
        encoder: with the names of the types.
    """
    documents, rows = [list(tokens) for tokens in columns["tokens"]], list(columns["row"])
    read = encoder.as_read(documents)
    source, parts = _parts(documents, read, encoder)
    texts = [read[i][first:last] for i, (first, last) in zip(source, parts, strict=True)]
    batch = encoder.tokenize(texts, is_split_into_words=True, truncation=True, max_length=encoder.room)
    encoded: Encoded = {key: list(value) for key, value in batch.items()}
    for i, ids in enumerate(encoded["input_ids"]):
        if not ids:
            _stand_in(encoded, i, encoder.tokenizer)
    places = [_places(batch.word_ids(i), len(text)) for i, text in enumerate(texts)]
    encoded["word_start"], encoded["word_end"] = [start for start, _ in places], [end for _, end in places]
    encoded["first_word"] = [first for first, _ in parts]
    encoder.counted += len(rows)
    if "entities" in columns:
        types = Types.of_labels(encoder.labels)
        relations = columns.get("relations") or [[]] * len(rows)
        annotated = [
            _inside(columns["entities"][i], relations[i], part, types) for i, part in zip(source, parts, strict=True)
        ]
        encoded["entities"], encoded["relations"] = [one for one, *_ in annotated], [one for _, one, _ in annotated]
        if any(name in columns for name in _UNSURE):
            unsure = [{name: columns[name][i] or () for name in _UNSURE if name in columns} for i in range(len(rows))]
            encoded |= _unknown([unsure[i] for i in source], parts, [index for *_, index in annotated], types)
    encoded["row"] = [rows[i] for i in source]
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded


def _parts(
    documents: list[list[str]], read: list[list[str]], encoder: Encoder
) -> tuple[list[int], list[tuple[int, int]]]:
    """Which document every window is of, and its words; `read` are those that the tokenizer is given."""
    whole = encoder.tokenize(read, is_split_into_words=True)
    source, parts = [], []
    for i, words in enumerate(documents):
        owners = whole.word_ids(i)
        found = [(0, len(words))]
        if len(owners) > encoder.room:
            pieces = [0] * len(words)
            for owner in owners:
                if owner is not None:
                    pieces[owner] += 1
            found = windows(words, pieces, max(1, encoder.room - owners.count(None)))
        source += [i] * len(found)
        parts += found
    return source, parts


def _stand_in(encoded: Encoded, i: int, tokenizer: Any) -> None:
    """A text without pieces gets one that stands for nothing."""
    for key in encoded:
        encoded[key][i] = [1 if key == "attention_mask" else 0]
    encoded["input_ids"][i] = [tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id]


def _places(owners: list[int | None], words: int) -> tuple[list[int], list[int]]:
    """First piece of every word and the one behind its last; a word without pieces is empty, behind the one before."""
    start, end = [_NOTHING] * words, [_NOTHING] * words
    for place, word in enumerate(owners):
        if word is not None:
            start[word] = place if start[word] < 0 else start[word]
            end[word] = place + 1
    behind = next((place for place, word in enumerate(owners) if word is not None), 0)
    for word in range(words):
        if start[word] < 0:
            start[word] = end[word] = behind
        behind = end[word]
    return start, end


def _inside(
    entities: Sequence[Any], relations: Sequence[Any], part: tuple[int, int], types: Types
) -> tuple[list[int], list[int], dict[int, int]]:
    """What is annotated in a window, flat, and entity -> its place there; a span with two types counts as one of the
    first."""
    places: dict[tuple[int, int], int] = {}
    index: dict[int, int] = {}
    found: list[int] = []
    for number, entity in enumerate(entities):
        span = entity["start"], entity["end"]
        if not part[0] <= span[0] < span[1] <= part[1]:
            continue
        if span not in places:
            places[span] = len(places)
            found += [span[0] - part[0], span[1] - part[0], 1 + types.entities.index(entity["type"])]
        index[number] = places[span]
    related: list[int] = []
    for relation in relations:
        kind, pair = types.relation_names.index(relation["type"]), (relation["head"], relation["tail"])
        if not all(number in index for number in pair) or index[pair[0]] == index[pair[1]]:
            continue
        if types.symmetric[kind]:
            pair = tuple(sorted(pair, key=lambda number: (entities[number]["start"], entities[number]["end"])))
        related += [index[pair[0]], index[pair[1]], kind]
    return found, related, index


def _unknown(
    unsure: Sequence[Mapping[str, Any]], parts: Sequence[tuple[int, int]], index: Sequence[dict[int, int]], types: Types
) -> Encoded:
    """What is not known of every window.

    Args:
        unsure: columns of the text that each window is of.
        parts: words of each.
        index: entity of the text -> its place in the window, of each.

    Returns:
        Where a type has no direction, a pair that is not known is not known the other way round either.
    """
    words: list[list[int]] = []
    pairs: list[list[int]] = []
    kinds: list[list[int]] = []
    for one, (first, last), places in zip(unsure, parts, index, strict=True):
        ignored = {word for start, end in one.get("ignore", ()) for word in range(start, end)}
        words.append([int(word in ignored) for word in range(first, last)])
        known = [list(pair) for pair in one.get("ignore_pairs", ()) if all(number in places for number in pair)]
        if any(types.symmetric):
            known += [pair[::-1] for pair in known if pair[::-1] not in known]
        pairs.append([places[number] for pair in known for number in pair])
        named = Types.of_labels(one.get("ignore_types", ()))
        kinds.append([int(name in named.entities) for name in types.entities])
        kinds[-1] += [int(name in named.relations) for name in types.relations]
    return {"unknown_words": words, "unknown_pairs": pairs, "unknown_types": kinds}


def collate_documents(rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
    """B encoded rows as the arguments of `SinetForJointExtraction.forward`."""
    batch = padded_inputs(rows, padding)
    batch["text_mask"] = batch["attention_mask"]
    width = batch["input_ids"].shape[1]
    moved = [width - len(row["input_ids"]) if padding.left else 0 for row in rows]
    for name in ("word_start", "word_end"):
        shifted = [[place + shift for place in row[name]] for row, shift in zip(rows, moved, strict=True)]
        batch[name] = _padded(shifted, 1)[..., 0]
    if "entities" in rows[0]:
        entities = _padded([row["entities"] for row in rows], 3)
        batch["entity_words"], batch["entity_types"] = entities[..., :2].contiguous(), entities[..., 2].contiguous()
        batch["relations"] = _padded([row["relations"] for row in rows], 3)
    if "unknown_words" in rows[0]:
        batch["unknown_words"] = _padded([row["unknown_words"] for row in rows], 1)[..., 0] == 1
        batch["unknown_pairs"] = _padded([row["unknown_pairs"] for row in rows], 2)
        batch["unknown_types"] = _padded([row["unknown_types"] for row in rows], 1)[..., 0] == 1
    return batch


def _padded(lists: Sequence[Sequence[int]], size: int) -> Tensor:
    """Flat lists of tuples -> (B, N, size), -1 behind the last."""
    made = torch.full((len(lists), max([1, *(len(one) // size for one in lists)]), size), _NOTHING, dtype=torch.int64)
    for i, one in enumerate(lists):
        made[i, : len(one) // size] = torch.as_tensor(list(one), dtype=torch.int64).view(-1, size)
    return made
