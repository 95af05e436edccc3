"""Documents with entities and relations: the one form that files, models, scores and pages share.

A document is a dict: `tokens` (words), `entities` ({type, start, end}, word indices, end exclusive) and `relations`
({type, head, tail}, indices into entities). It may have `id`, `text`, `offsets` ([start, end] characters of every word
in the text), `ignore`, `ignore_pairs` and `ignore_types`. Predicted entities and relations may have a `score`.

Partly annotated corpora: `ignore` holds [start, end] word ranges of which nothing is known, `ignore_pairs` holds
[head, tail] entities of which it isn't known whether they are related, `ignore_types` holds labels
(`entity:Person`, `relation:works_for`) of types that were not looked for in the document. None of these is a negative
example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Document = dict[str, Any]
Span = tuple[int, int]


def whole(row: Mapping[str, Any]) -> Document:
    """A row of a data set as a document: lists that it lacks, or that hold nothing, are empty."""
    lists = ("entities", "relations", "ignore", "ignore_pairs", "ignore_types")
    return dict(row) | {name: list(row.get(name) or ()) for name in lists}


def span_of(entity: Mapping[str, Any]) -> Span:
    """Start and end of an entity, in words."""
    return entity["start"], entity["end"]


def overlap(one: Span, other: Span) -> bool:
    """Whether two spans share a word."""
    return one[0] < other[1] and other[0] < one[1]


def ordered_pair(head: Mapping[str, Any], tail: Mapping[str, Any], symmetric: bool) -> tuple[Any, Any]:
    """Head and tail as they are counted: that of a symmetric relation which starts first is its head; of two that start
    together, the one that ends first, then the one whose type comes first."""
    if symmetric and (*span_of(tail), tail["type"]) < (*span_of(head), head["type"]):
        return tail, head
    return head, tail


def overlapping(spans: Sequence[Span]) -> list[bool]:
    """For every span, whether it shares a word with another one of them; equal spans do."""
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    found = [False] * len(spans)
    widest = -1
    for i in order:
        if widest >= 0 and overlap(spans[widest], spans[i]):
            found[i] = found[widest] = True
        if widest < 0 or spans[i][1] > spans[widest][1]:
            widest = i
    return found


def words_of(document: Document, span: Span) -> str:
    """The words of a span as they stand in the text, or parted by blanks where there is no text."""
    start, end = span
    if document.get("text") is not None and document.get("offsets"):
        offsets = document["offsets"]
        text: str = document["text"][offsets[start][0] : offsets[end - 1][1]]
        return text
    return " ".join(document["tokens"][start:end])


def with_places(document: Document) -> Document:
    """The document whose entities also have `text`, `start_char` and `end_char`, their characters in its text, the end
    exclusive; one without a text or places of its words is given back as it is."""
    if document.get("text") is None or not document.get("offsets"):
        return document
    entities = []
    for one in document["entities"]:
        start, end = document["offsets"][one["start"]][0], document["offsets"][one["end"] - 1][1]
        entities.append({**one, "text": document["text"][start:end], "start_char": start, "end_char": end})
    return document | {"entities": entities}


def ignore_masks(document: Document) -> tuple[np.ndarray, np.ndarray]:
    """What of a partly annotated document is not known.

    Returns:
        (W,) whether nothing is known of a word, so that a span with it is no negative example; and (N, N) whether it
        is not known if two entities, head and tail, are related. A pair with an entity in an ignored range is one.
    """
    import numpy as np

    words = np.zeros(len(document["tokens"]), bool)
    for start, end in document.get("ignore", []):
        words[start:end] = True
    pairs = np.zeros((len(document["entities"]),) * 2, bool)
    for number, entity in enumerate(document["entities"]):
        if words[entity["start"] : entity["end"]].any():
            pairs[number, :] = pairs[:, number] = True
    for head, tail in document.get("ignore_pairs", []):
        pairs[head, tail] = True
    return words, pairs


def without_faulty(document: Document, entities: set[int], relations: set[int]) -> Document:
    """A document without some of its entities and relations, given by their indices; relations and ignored pairs with
    an entity that is gone, or that never was, go too."""
    kept = [i for i in range(len(document["entities"])) if i not in entities]
    place = {old: new for new, old in enumerate(kept)}
    made = document | {
        "entities": [document["entities"][i] for i in kept],
        "relations": [
            relation | {"head": place[relation["head"]], "tail": place[relation["tail"]]}
            for i, relation in enumerate(document["relations"])
            if i not in relations and relation["head"] in place and relation["tail"] in place
        ],
    }
    if "ignore_pairs" in document:
        pairs = document["ignore_pairs"]
        made["ignore_pairs"] = [[place[h], place[t]] for h, t in pairs if h in place and t in place]
    return made
