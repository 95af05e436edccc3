"""What a corpus holds, in numbers: before training, what a model can find of it at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.extraction.documents import Document, overlapping, span_of


@dataclass(frozen=True)
class CorpusStatistics:
    """Counts over a corpus.

    Attributes:
        sentences, words: how many there are.
        entities, relations: type -> how many.
        widths: width of an entity in words -> how many.
        between: words between head and tail of a relation -> how many; 0 where they touch or overlap.
        overlapping: entities that share words with another one.
        nested: entities that lie within another one.
        overlapping_sentences: sentences with such entities.
        same_span: entities whose words are another one's exactly.
        ignored_words: words of which nothing is known.
        max_span_size: the span limit that the next two are of.
        too_wide: entities over the span limit.
        unreachable: relations with such an entity, or of words with themselves.
    """

    sentences: int
    words: int
    entities: Counter[str]
    relations: Counter[str]
    widths: Counter[int]
    between: Counter[int]
    overlapping: int
    nested: int
    overlapping_sentences: int
    same_span: int
    ignored_words: int
    max_span_size: int
    too_wide: int
    unreachable: int

    @property
    def entity_ceiling(self) -> float:
        """The recall of entities that the span limit allows; 1 where there are none."""
        total = self.entities.total()
        return 1 - self.too_wide / total if total else 1.0

    @property
    def relation_ceiling(self) -> float:
        """The recall of relations that the span limit allows; 1 where there are none."""
        total = self.relations.total()
        return 1 - self.unreachable / total if total else 1.0


def corpus_statistics(documents: Sequence[Document], *, max_span_size: int = 10) -> CorpusStatistics:
    """Count.

    Args:
        documents: sound ones.
        max_span_size: span limit in words.
    """
    counts: Counter[str] = Counter()
    entities, relations = Counter[str](), Counter[str]()
    widths, between = Counter[int](), Counter[int]()
    for document in documents:
        spans = [span_of(one) for one in document["entities"]]
        shares = overlapping(spans)
        counts["overlapping"] += sum(shares)
        counts["overlapping_sentences"] += any(shares)
        furthest = -1
        for (_, end), number in sorted(Counter(spans).items(), key=lambda one: (one[0][0], -one[0][1])):
            counts["same_span"] += number if number > 1 else 0
            counts["nested"] += number if end <= furthest else 0
            furthest = max(furthest, end)
        entities.update(one["type"] for one in document["entities"])
        widths.update(end - start for start, end in spans)
        for one in document["relations"]:
            head, tail = spans[one["head"]], spans[one["tail"]]
            relations[one["type"]] += 1
            between[max(0, max(head[0], tail[0]) - min(head[1], tail[1]))] += 1
            wide = any(end - start > max_span_size for start, end in (head, tail))
            counts["unreachable"] += wide or head == tail
        ignored = {word for start, end in document.get("ignore", []) for word in range(start, end)}
        counts["ignored_words"] += len(ignored)
    return CorpusStatistics(
        sentences=len(documents),
        words=sum(len(one["tokens"]) for one in documents),
        entities=entities,
        relations=relations,
        widths=widths,
        between=between,
        overlapping=counts["overlapping"],
        nested=counts["nested"],
        overlapping_sentences=counts["overlapping_sentences"],
        same_span=counts["same_span"],
        ignored_words=counts["ignored_words"],
        max_span_size=max_span_size,
        too_wide=sum(number for width, number in widths.items() if width > max_span_size),
        unreachable=counts["unreachable"],
    )
