"""Thirty sentences with people, places, firms and how they are related, written for these tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertModel, BertTokenizerFast

# [Anna Berg:Person:a] names an entity; the relations stand behind the bar as type(head, tail).
_WRITTEN = """
[Anna Berg:Person:a] works for [Nordic Paper:Firm:b] . | employs(b,a)
[Lukas Hahn:Person:a] was born in [Graz:Place:b] . | born(a,b)
[Nordic Paper:Firm:a] has its offices in [Oslo:Place:b] . | seat(a,b)
[Mira Sand:Person:a] is married to [Paul Sand:Person:b] . | married(a,b)
[Graz:Place:a] is a quiet town .
The painter [Ida Roth:Person:a] , born in [Turin:Place:b] , left for [Oslo:Place:c] . | born(a,b)
[Blue Harbour:Firm:a] hired [Tom Ek:Person:b] and [Sara Lind:Person:c] . | employs(a,b) employs(a,c)
It rained all day .
[Tom Ek:Person:a] and [Sara Lind:Person:b] married in [Turin:Place:c] . | married(a,b)
[Blue Harbour:Firm:a] moved to [Turin:Place:b] last year . | seat(a,b)
[Paul Sand:Person:a] works for [Blue Harbour:Firm:b] . | employs(b,a)
[Jon Vik:Person:a] was born in [Oslo:Place:b] . | born(a,b)
[Green Mills:Firm:a] has its offices in [Graz:Place:b] . | seat(a,b)
[Jon Vik:Person:a] is married to [Ida Roth:Person:b] . | married(a,b)
[Green Mills:Firm:a] hired [Anna Berg:Person:b] . | employs(a,b)
[Oslo:Place:a] and [Turin:Place:b] are far apart .
[Sara Lind:Person:a] , who works for [Green Mills:Firm:b] , was born in [Graz:Place:c] . | employs(b,a) born(a,c)
Nobody came to the meeting .
[Lukas Hahn:Person:a] works for [Nordic Paper:Firm:b] in [Oslo:Place:c] . | employs(b,a) seat(b,c)
[Mira Sand:Person:a] was born in [Turin:Place:b] . | born(a,b)
[Red Lantern:Firm:a] has its offices in [Turin:Place:b] . | seat(a,b)
[Ida Roth:Person:a] works for [Red Lantern:Firm:b] . | employs(b,a)
[Anna Berg:Person:a] is married to [Lukas Hahn:Person:b] . | married(a,b)
[Red Lantern:Firm:a] hired [Jon Vik:Person:b] last year . | employs(a,b)
[Tom Ek:Person:a] was born in [Graz:Place:b] . | born(a,b)
The painter [Paul Sand:Person:a] left for [Graz:Place:b] .
[Nordic Paper:Firm:a] hired [Mira Sand:Person:b] . | employs(a,b)
[Green Mills:Firm:a] and [Red Lantern:Firm:b] moved last year .
[Sara Lind:Person:a] works for [Blue Harbour:Firm:b] . | employs(b,a)
[Paul Sand:Person:a] , born in [Oslo:Place:b] , is married to [Mira Sand:Person:c] . | born(a,b) married(a,c)
"""
LABELS = [
    "entity:Firm",
    "entity:Person",
    "entity:Place",
    "relation:born",
    "relation:employs",
    "relation:seat",
    "symmetric relation:married",
]


def _document(line: str) -> dict[str, Any]:
    text, _, related = line.partition(" | ")
    tokens: list[str] = []
    entities: list[dict[str, Any]] = []
    names: dict[str, int] = {}
    for part in re.findall(r"\[[^]]*\]|\S+", text):
        words, *rest = part.strip("[]").split(":")
        if rest:
            names[rest[1]] = len(entities)
            entities.append({"type": rest[0], "start": len(tokens), "end": len(tokens) + len(words.split())})
        tokens += words.split()
    found = re.findall(r"(\w+)\((\w),(\w)\)", related)
    relations = [{"type": kind, "head": names[head], "tail": names[tail]} for kind, head, tail in found]
    return {"tokens": tokens, "entities": entities, "relations": relations}


DOCUMENTS = [_document(line) for line in _WRITTEN.strip().splitlines()]


def write(path: Path, documents: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(documents))
    return str(path)


def tiny_encoder(folder: Path, longest: int = 64) -> str:
    """A random BERT of 2 layers and 32 units that knows the words in part: the others are several pieces."""
    import torch

    torch.manual_seed(0)
    words = sorted({word for one in DOCUMENTS for word in one["tokens"]} - {"Nordic", "Lantern", "Hahn"})
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*words, *pieces])]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(names) + "\n")
    vocabulary = {name: place for place, name in enumerate(names)}
    tokenizer = BertTokenizerFast(vocab=vocabulary, do_lower_case=False, model_max_length=longest)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(names), **sizes, max_position_embeddings=longest)).save_pretrained(folder)
    return str(folder)
