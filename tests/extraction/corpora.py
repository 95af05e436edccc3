"""Sentences with entities and relations, made by a seed, and the same ones with mistakes."""

from __future__ import annotations

import copy
import random
from typing import Any

from luthier.extraction.documents import Document, without_faulty
from luthier.extraction.types import Types

TYPES = Types(["Loc", "Org", "Peop"], {"Kill": False, "Live_In": False, "Spouse": True})
_WORDS = "Anna met Boris near Lake Balaton , where the Danube Museum works for Acme Corp. since 1990 .".split()


def sentences(number: int, seed: int, *, flat: bool = False) -> list[Document]:
    """Sentences of random words and spans; with `flat`, no two entities share a word."""
    generator = random.Random(seed)
    return [_sentence(generator, index, flat) for index in range(number)]


def _sentence(generator: random.Random, index: int, flat: bool) -> Document:
    words = [generator.choice(_WORDS) for _ in range(generator.randint(1, 18))]
    spans: set[tuple[int, int]] = set()
    for _ in range(generator.randint(0, 6)):
        start = generator.randrange(len(words))
        span = start, min(len(words), start + generator.randint(1, 4))
        if not flat or all(span[1] <= a or b <= span[0] for a, b in spans):
            spans.add(span)
    entities = [{"type": generator.choice(TYPES.entities), "start": a, "end": b} for a, b in sorted(spans)]
    return {"tokens": words, "entities": entities, "relations": _relations(generator, len(entities)), "id": f"s{index}"}


def _relations(generator: random.Random, entities: int) -> list[dict[str, Any]]:
    if entities < 2:
        return []
    found = {}
    for _ in range(generator.randint(0, 4)):
        kind, (head, tail) = generator.choice(list(TYPES.relations)), generator.sample(range(entities), 2)
        pair = tuple(sorted((head, tail))) if TYPES.is_symmetric(kind) else (head, tail)
        found[kind, pair] = {"type": kind, "head": head, "tail": tail}
    return list(found.values())


def perturbed(documents: list[Document], seed: int) -> list[Document]:
    """The same sentences with entities and relations missed, added, moved, turned round, doubled, of other types."""
    generator = random.Random(seed)
    made = []
    for document in copy.deepcopy(documents):
        length = len(document["tokens"])
        missed = {i for i in range(len(document["entities"])) if generator.random() < 0.1}
        document = without_faulty(document, missed, set())
        for entity in document["entities"]:
            entity["score"] = generator.random()
            chance = generator.random()
            if chance < 0.15:
                entity["type"] = generator.choice(TYPES.entities)
            elif chance < 0.3:
                entity["end"] = generator.randint(entity["start"] + 1, length)
        if generator.random() < 0.4:
            start = generator.randrange(length)
            kind = generator.choice(TYPES.entities)
            document["entities"].append({"type": kind, "start": start, "end": start + 1, "score": generator.random()})
        document["relations"] = [one for one in document["relations"] if generator.random() < 0.8]
        for relation in document["relations"]:
            chance = generator.random()
            if chance < 0.2:
                relation["head"], relation["tail"] = relation["tail"], relation["head"]
            elif chance < 0.35:
                relation["type"] = generator.choice(list(TYPES.relations))
        document["relations"] += _relations(generator, len(document["entities"]))[:1]
        if generator.random() < 0.2:
            document["entities"] += document["entities"][:1]
            document["relations"] += document["relations"][:1]
        made.append(document)
    return made
