"""What went wrong in extractions: every wrong or missing entity and relation under one kind, and the surest mistakes.

Of the kinds that a pair of gold and prediction can have, the first that fits counts, and each is in one pair at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeVar

from luthier.extraction.documents import Document, Span, ordered_pair, span_of
from luthier.extraction.scoring import without_ignored
from luthier.extraction.types import Types

ENTITY_KINDS = {
    "type": "the words are right, the type is not",
    "boundary": "the type is right, and some words are; it begins or ends elsewhere",
    "boundary_and_type": "it shares words with one of another type",
    "missed": "nothing was found there",
    "spurious": "nothing is there",
}
RELATION_KINDS = {
    "entity_type": "both spans and the relation are right, the type of an entity is not",
    "type": "both spans are right, the relation between them is not",
    "direction": "head and tail are the wrong way round",
    "boundary": "the relation is right, and both spans share words with the right ones",
    "missed_entity": "not found, as an entity of it was not found either",
    "missed": "not found between two entities that were found",
    "spurious": "nothing of the kind is there",
}
MOST_SHOWN = 20
_Item = TypeVar("_Item")
# What a pair of gold and prediction has to share, and what it is worth.
_Marks = Callable[[_Item], Iterable[Any]]
_Worth = Callable[[_Item, _Item], float]


@dataclass(frozen=True)
class Mistake:
    """One wrong or missing entity or relation.

    Attributes:
        kind: of `ENTITY_KINDS` or `RELATION_KINDS`.
        row: place of the document.
        gold, predicted: what should be there and what was found; None where there is nothing.
        score: of the prediction, where it has one.
    """

    kind: str
    row: int
    gold: str | None
    predicted: str | None
    score: float | None = None
    span: Span = (0, 0)


@dataclass
class Mistakes:
    """All mistakes of a corpus.

    Attributes:
        entities, relations: one by one.
        right: how many of each are right: `entities`, `relations` (strict).
        confused: (type in gold, type told) -> how many entities of the kind `type`.
    """

    entities: list[Mistake] = field(default_factory=list)
    relations: list[Mistake] = field(default_factory=list)
    right: Counter[str] = field(default_factory=Counter)
    confused: Counter[tuple[str, str]] = field(default_factory=Counter)

    def surest(self, most: int = MOST_SHOWN) -> list[Mistake]:
        """The wrong predictions that the model was surest of, surest first."""
        told = [one for one in (*self.entities, *self.relations) if one.score is not None]
        return sorted(told, key=lambda one: -(one.score or 0.0))[:most]


def find_mistakes(gold: Sequence[Document], predicted: Sequence[Document], types: Types | None = None) -> Mistakes:
    """Compare predictions with gold.

    Args:
        gold, predicted: the same sentences in the same order. What gold does not know is no mistake.
        types: tells which relations are symmetric.

    Raises:
        ValueError: they are not equally many.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} sentences of gold and {len(predicted)} of predictions can't be compared")
    found, types = Mistakes(), types or Types()
    for row, (one, other) in enumerate(zip(gold, predicted, strict=True)):
        other = without_ignored(one, other, types)
        _entities(row, one, other, found)
        _relations(row, one, other, types, found)
    return found


@dataclass(frozen=True)
class _Entity:
    span: Span
    type: str
    text: str
    score: float | None

    @property
    def key(self) -> tuple[Any, ...]:
        return self.span, self.type


@dataclass(frozen=True)
class _Relation:
    head: _Entity
    tail: _Entity
    type: str
    score: float | None

    @property
    def key(self) -> tuple[Any, ...]:
        return self.head.key, self.tail.key, self.type

    @property
    def spans(self) -> tuple[Span, Span]:
        return self.head.span, self.tail.span

    @property
    def text(self) -> str:
        return f"{self.head.text} → {self.type} → {self.tail.text}"


def _entity(document: Document, entity: Mapping[str, Any]) -> _Entity:
    words = " ".join(document["tokens"][entity["start"] : entity["end"]])
    return _Entity(span_of(entity), entity["type"], f"{words} ({entity['type']})", entity.get("score"))


def _entities(row: int, gold: Document, predicted: Document, found: Mistakes) -> None:
    sides = [list({(e := _entity(d, one)).key: e for one in d["entities"]}.values()) for d in (gold, predicted)]
    left, extra, right = _apart(*sides)
    found.right["entities"] += right
    rules: list[tuple[str, _Marks[_Entity], _Worth[_Entity]]] = [
        ("type", lambda e: [e.span], _always),
        ("boundary", lambda e: product(range(*e.span), [e.type]), lambda g, p: _shared(g.span, p.span)),
        ("boundary_and_type", lambda e: range(*e.span), lambda g, p: _shared(g.span, p.span)),
    ]
    for kind, marks, worth in rules:
        for g, p in _paired(left, extra, worth, marks, marks):
            found.entities.append(Mistake(kind, row, g.text, p.text, p.score, p.span))
            if kind == "type":
                found.confused[g.type, p.type] += 1
    found.entities += [Mistake("missed", row, g.text, None, None, g.span) for g in left]
    found.entities += [Mistake("spurious", row, None, p.text, p.score, p.span) for p in extra]


def _relations(row: int, gold: Document, predicted: Document, types: Types, found: Mistakes) -> None:
    sides = [
        list({(r := _relation(d, one, types)).key: r for one in d["relations"]}.values()) for d in (gold, predicted)
    ]
    left, extra, right = _apart(*sides)
    found.right["relations"] += right
    rules: list[tuple[str, _Marks[_Relation], _Marks[_Relation], _Worth[_Relation]]] = [
        ("entity_type", lambda r: [(r.spans, r.type)], lambda r: [(r.spans, r.type)], _always),
        ("direction", lambda r: [(r.spans, r.type)], lambda r: [(r.spans[::-1], r.type)], _always),
        ("type", lambda r: [r.spans], lambda r: [r.spans], _always),
        ("boundary", _words_of_ends, _words_of_ends, _shared_ends),
    ]
    for kind, of_gold, of_predicted, worth in rules:
        for g, p in _paired(left, extra, worth, of_gold, of_predicted):
            found.relations.append(Mistake(kind, row, g.text, p.text, p.score, _hull(p)))
    there = {span_of(one) for one in predicted["entities"]}
    for g in left:
        kind = "missed" if set(g.spans) <= there else "missed_entity"
        found.relations.append(Mistake(kind, row, g.text, None, None, _hull(g)))
    found.relations += [Mistake("spurious", row, None, p.text, p.score, _hull(p)) for p in extra]


def _relation(document: Document, relation: Mapping[str, Any], types: Types) -> _Relation:
    entities = document["entities"]
    kind = relation["type"]
    head, tail = ordered_pair(entities[relation["head"]], entities[relation["tail"]], types.is_symmetric(kind))
    return _Relation(_entity(document, head), _entity(document, tail), kind, relation.get("score"))


def _hull(relation: _Relation) -> Span:
    return min(s for s, _ in relation.spans), max(e for _, e in relation.spans)


def _apart(gold: list[Any], predicted: list[Any]) -> tuple[list[Any], list[Any], int]:
    """Those that only one side has, and how many both have."""
    keys = [{one.key for one in side} for side in (gold, predicted)]
    both = keys[0] & keys[1]
    return [g for g in gold if g.key not in both], [p for p in predicted if p.key not in both], len(both)


def _paired(
    left: list[_Item], extra: list[_Item], worth: _Worth[_Item], of_gold: _Marks[_Item], of_predicted: _Marks[_Item]
) -> list[tuple[_Item, _Item]]:
    """Pairs that share a mark, those worth most first, taken out of both lists."""
    marked: dict[Any, list[int]] = {}
    for j, p in enumerate(extra):
        for mark in of_predicted(p):
            marked.setdefault(mark, []).append(j)
    near = [{j for mark in of_gold(g) for j in marked.get(mark, ())} for g in left]
    fitting = sorted((-worth(left[i], extra[j]), i, j) for i, found in enumerate(near) for j in found)
    pairs, used_gold, used_extra = [], set[int](), set[int]()
    for _, i, j in fitting:
        if i not in used_gold and j not in used_extra:
            pairs.append((left[i], extra[j]))
            used_gold.add(i)
            used_extra.add(j)
    left[:] = [g for i, g in enumerate(left) if i not in used_gold]
    extra[:] = [p for j, p in enumerate(extra) if j not in used_extra]
    return pairs


def _always(one: Any, other: Any) -> float:
    return 1.0


def _words_of_ends(one: _Relation) -> Iterable[Any]:
    return product(range(*one.head.span), range(*one.tail.span), [one.type])


def _shared(one: Span, other: Span) -> float:
    """The words that two overlapping spans share, of all that they have."""
    return (min(one[1], other[1]) - max(one[0], other[0])) / (max(one[1], other[1]) - min(one[0], other[0]))


def _shared_ends(one: _Relation, other: _Relation) -> float:
    head, tail = (_shared(a, b) for a, b in zip(one.spans, other.spans, strict=True))
    return min(head, tail)
