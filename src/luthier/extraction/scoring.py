"""Exact scores of extracted entities and relations.

Per sentence, what is counted is a set, so that duplicates collapse; counts are summed over the corpus.

- `entity`: entities as (start, end, type).
- `relation`, "boundaries": relations as (head span, tail span, relation type).
- `relation_strict`, "strict", Rel+: relations as (head span, head type, tail span, tail type, relation type).
- `relation_start`: as PFN counts (Yan et al. 2021): relations as (head's first word, tail's first word, relation type),
  right where at each of the two words a right entity begins. Equal to strict where no two entities begin at one word.

P = Σ|G∩P| / Σ|P|, R = Σ|G∩P| / Σ|G|, F1 = 2PR / (P + R), 0 where undefined. Micro is over all types; macro is the mean
of the F1 of the types that gold or predictions have. Head and tail of a symmetric relation are put in order first.

Works that print one relation score print different ones: those after SpERT (Eberts & Ulges 2020) print boundaries on
SciERC, PFN prints strict. They can't be compared.

Shapes: S sentences, C types, D bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from luthier.extraction.documents import (
    Document,
    Span,
    ignore_masks,
    ordered_pair,
    overlap,
    overlapping,
    span_of,
    without_faulty,
)
from luthier.extraction.types import Types

Overlap = Literal["keep", "drop_items", "drop_sentences"]
OVERLAP: tuple[Overlap, ...] = ("keep", "drop_items", "drop_sentences")
LEVELS = {
    "entity": "entities",
    "relation": "relations, boundaries",
    "relation_strict": "relations, strict",
    "relation_start": "relations, first words",
}
# What is counted -> its type.
_Items = dict[tuple[Hashable, ...], str]


@dataclass(frozen=True)
class Score:
    """Precision, recall and F1, each a number, or an array over draws."""

    precision: Any
    recall: Any
    f1: Any


@dataclass(frozen=True)
class Counts:
    """What was counted in each sentence.

    Attributes:
        types: the C types that gold or predictions have, by name.
        gold, predicted, correct: (S, C) whole numbers.
    """

    types: tuple[str, ...]
    gold: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray

    def micro(self, draws: np.ndarray | None = None) -> Score:
        """Over all types.

        Args:
            draws: (D, S) how often each sentence counts, for D scores at once.
        """
        return _score(*(self._sums(part.sum(1, keepdims=True), draws)[..., 0] for part in self.parts))

    def macro(self, draws: np.ndarray | None = None) -> Score:
        """The mean over the types that gold or predictions have, in each draw by itself. See `micro`."""
        gold, predicted, correct = (self._sums(part, draws) for part in self.parts)
        each, there = _score(gold, predicted, correct), (gold + predicted) > 0
        many = np.maximum(there.sum(-1), 1)
        return Score(*((part * there).sum(-1) / many for part in (each.precision, each.recall, each.f1)))

    def by_type(self) -> dict[str, tuple[Score, int]]:
        """Score and support, the number in gold, of every type."""
        gold, predicted, correct = (self._sums(part, None) for part in self.parts)
        each = _score(gold, predicted, correct)
        return {
            kind: (Score(float(each.precision[i]), float(each.recall[i]), float(each.f1[i])), int(gold[i]))
            for i, kind in enumerate(self.types)
        }

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gold, predicted, correct."""
        return self.gold, self.predicted, self.correct

    @staticmethod
    def _sums(part: np.ndarray, draws: np.ndarray | None) -> np.ndarray:
        return part.sum(0) if draws is None else np.asarray(draws) @ part


@dataclass(frozen=True)
class ExtractionScores:
    """Counts at every level of `LEVELS`.

    Attributes:
        levels: level -> counts.
        sentences: how many were counted; fewer than were given where some were dropped.
        kept: (S,) place of each counted sentence among those given.
    """

    levels: dict[str, Counts]
    sentences: int
    kept: np.ndarray

    def flat(self) -> dict[str, float]:
        """`entity_micro_f1`, `relation_strict_macro_precision`, ...: every level, average and part as one number."""
        made = {}
        for level, counts in self.levels.items():
            for average, score in (("micro", counts.micro()), ("macro", counts.macro())):
                for part in ("f1", "precision", "recall"):
                    made[f"{level}_{average}_{part}"] = float(getattr(score, part))
        return made


def score_extractions(
    gold: Sequence[Document],
    predicted: Sequence[Document],
    types: Types | None = None,
    *,
    overlap: Overlap = "keep",
) -> ExtractionScores:
    """Compare predictions with gold, sentence by sentence.

    Args:
        gold, predicted: the same S sentences in the same order; of predictions only entities and relations are read.
            What lies in a part of gold that is to be ignored, and is not in gold, is not counted.
        types: tells which relations are symmetric; none by default.
        overlap: what becomes of entities that share words. `drop_items` leaves them out of gold and predictions,
            each by itself, and so all relations whose head and tail share words, as SpERT's evaluator does when told;
            `drop_sentences` leaves out the sentences whose gold has some, as PFN does on ADE.

    Raises:
        ValueError: gold and predictions are not equally many, or `overlap` is none of these.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} sentences of gold and {len(predicted)} of predictions can't be compared")
    if overlap not in OVERLAP:
        raise ValueError(f"overlap={overlap!r} is none of {', '.join(OVERLAP)}")
    types = types or Types()
    kept = [i for i, one in enumerate(gold) if overlap != "drop_sentences" or not _has_overlap(one)]
    pairs = [(gold[i], without_ignored(gold[i], predicted[i], types)) for i in kept]
    sides = [tuple(_items(one, types, drop=overlap == "drop_items") for one in pair) for pair in pairs]
    levels = {level: _counts(level, sides) for level in LEVELS}
    return ExtractionScores(levels, len(kept), np.array(kept, int))


def without_ignored(gold: Document, predicted: Document, types: Types) -> Document:
    """Predictions without those that gold does not have and that lie where gold is not annotated."""
    if not any(gold.get(name) for name in ("ignore", "ignore_pairs", "ignore_types")):
        return predicted
    unsought = Types.of_labels(gold.get("ignore_types") or ())
    words, pairs = ignore_masks(gold)
    known = {(*span_of(one), one["type"]) for one in gold["entities"]}
    spans = [span_of(one) for one in gold["entities"]]
    unknown_pairs = {(spans[h], spans[t]) for h, t in zip(*np.nonzero(pairs), strict=True)}
    related = {(one["type"], *_ends(gold, one, types)) for one in gold["relations"]}
    entities, relations = predicted["entities"], predicted["relations"]
    outside = [bool(words[one["start"] : one["end"]].any()) or one["type"] in unsought.entities for one in entities]
    gone = {i for i, one in enumerate(entities) if outside[i] and (*span_of(one), one["type"]) not in known}
    unjudged = set()
    for i, one in enumerate(relations):
        pair = _ends(predicted, one, types)
        touches = outside[one["head"]] or outside[one["tail"]] or pair in unknown_pairs
        touches = touches or (types.is_symmetric(one["type"]) and pair[::-1] in unknown_pairs)
        touches = touches or one["type"] in unsought.relations
        if touches and (one["type"], *pair) not in related:
            unjudged.add(i)
    return without_faulty(predicted, gone, unjudged)


def _ends(document: Document, relation: Mapping[str, Any], types: Types) -> tuple[Span, Span]:
    """The spans of a relation, in the order in which they are counted."""
    head, tail = (document["entities"][relation[end]] for end in ("head", "tail"))
    head, tail = ordered_pair(head, tail, types.is_symmetric(relation["type"]))
    return span_of(head), span_of(tail)


def _has_overlap(document: Document) -> bool:
    return any(overlapping(list({span_of(one) for one in document["entities"]})))


def _items(document: Document, types: Types, drop: bool) -> dict[str, _Items]:
    """What is counted of a sentence at every level."""
    entities: list[Mapping[str, Any]] = document.get("entities") or []
    found = {(*span_of(one), one["type"]) for one in entities}
    if drop:
        distinct = sorted(found)
        shares = overlapping([(start, end) for start, end, _ in distinct])
        found = {one for one, shared in zip(distinct, shares, strict=True) if not shared}
    items: dict[str, _Items] = {
        "entity": {one: one[2] for one in found},
        "relation": {},
        "relation_strict": {},
        "relation_start": {},
    }
    for relation in document.get("relations") or ():
        kind = relation["type"]
        pair = entities[relation["head"]], entities[relation["tail"]]
        head, tail = ordered_pair(*pair, types.is_symmetric(kind))
        if drop and overlap(span_of(head), span_of(tail)):
            continue
        items["relation"][kind, *span_of(head), *span_of(tail)] = kind
        items["relation_strict"][_strict(kind, head, tail)] = kind
        items["relation_start"][kind, head["start"], tail["start"]] = kind
    return items


def strict_item(document: Document, relation: Mapping[str, Any], types: Types) -> tuple[Hashable, ...]:
    """What a relation of a document is counted as at the level `relation_strict`."""
    head, tail = (document["entities"][relation[end]] for end in ("head", "tail"))
    return _strict(relation["type"], *ordered_pair(head, tail, types.is_symmetric(relation["type"])))


def _strict(kind: str, head: Mapping[str, Any], tail: Mapping[str, Any]) -> tuple[Hashable, ...]:
    return kind, *span_of(head), head["type"], *span_of(tail), tail["type"]


def _counts(level: str, sides: Sequence[tuple[dict[str, _Items], ...]]) -> Counts:
    names = sorted({kind for pair in sides for side in pair for kind in side[level].values()})
    place = {name: i for i, name in enumerate(names)}
    shape = (len(sides), len(names))
    counted = []
    for pick in (lambda g, p: g[level], lambda g, p: p[level], lambda g, p: _correct(level, g, p)):
        cells = [row * len(names) + place[kind] for row, pair in enumerate(sides) for kind in pick(*pair).values()]
        counted.append(np.bincount(np.array(cells, int), minlength=shape[0] * shape[1]).reshape(shape))
    return Counts(tuple(names), *counted)


def _correct(level: str, gold: Mapping[str, _Items], predicted: Mapping[str, _Items]) -> _Items:
    both = {one: kind for one, kind in predicted[level].items() if one in gold[level]}
    if level != "relation_start":
        return both
    right = {one[0] for one in predicted["entity"] if one in gold["entity"]}
    return {one: kind for one, kind in both.items() if one[1] in right and one[2] in right}


def _score(gold: Any, predicted: Any, correct: Any) -> Score:
    precision, recall = _ratio(correct, predicted), _ratio(correct, gold)
    return Score(precision, recall, _ratio(2 * precision * recall, precision + recall))


def _ratio(above: Any, below: Any) -> np.ndarray:
    above, below = np.asarray(above, float), np.asarray(below, float)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def counts(gold: Sequence[Document], told: Sequence[Document], types: Types) -> tuple[np.ndarray, np.ndarray]:
    """What the scores of S sentences are made of, as arrays whose rows can be drawn: (S, 4, C) items that there are,
    and (S, 4, C, 2) that are told and that are right, by level of `LEVELS` and type."""
    levels = list(score_extractions(gold, told, types).levels.values())
    size = max(1, *(len(one.types) for one in levels))
    padded = [[np.pad(part, ((0, 0), (0, size - part.shape[1]))) for part in one.parts] for one in levels]
    there, found, right = (np.stack([parts[i] for parts in padded], axis=1) for i in range(3))
    return there, np.stack([found, right], axis=-1)


def f1(there: np.ndarray, found: np.ndarray, level: str, *, macro: bool = False) -> float:
    """F1 at a level, of what `counts` gives."""
    return float(drawn_f1(None, there, found, level, macro=macro))


def drawn_f1(
    draws: np.ndarray | None, there: np.ndarray, found: np.ndarray, level: str, *, macro: bool = False
) -> np.ndarray:
    """(D,) the same in draws of sentences.

    Args:
        draws: (D, S) how often each sentence counts; None for all of them once.
    """
    place = list(LEVELS).index(level)
    of_level = Counts((), there[:, place], found[:, place, :, 0], found[:, place, :, 1])
    return np.asarray((of_level.macro(draws) if macro else of_level.micro(draws)).f1)


def bootstrap(
    counts: Iterable[Counts], draws: np.ndarray, average: Literal["micro", "macro"] = "micro"
) -> list[np.ndarray]:
    """(D,) F1 of several systems on the same sentences in the same draws, for paired differences.

    Args:
        counts: of each system.
        draws: (D, S) how often each sentence counts.
        average: micro, or macro.
    """
    return [getattr(one, average)(draws).f1 for one in counts]
