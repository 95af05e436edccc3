"""What is wrong with documents, every fault counted by its kind and named with its place.

Faults make a document unusable as it is. Remarks are true of sound corpora too, and cost a model recall: entities that
overlap or are wider than the span limit, relations of an entity with itself. What is there twice counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from luthier.data.table import Problems, shorten
from luthier.errors import DataError, nearest
from luthier.extraction.documents import Document, overlap, span_of, without_faulty
from luthier.extraction.types import Types

FAULTS = {
    "document": "a document has another shape",
    "offsets": "an entity or a word lies outside of the document, or is empty",
    "misaligned": "an entity begins or ends inside a word",
    "discontinuous": "an entity is in several pieces",
    "text_differs": "the text that a file gives for an entity is not the one at its place",
    "unknown_type": "a type is not among the known ones",
    "missing_entity": "a relation or an ignored pair names an entity that is not there",
    "unreadable": "a line or an annotation can't be read",
    "unwritable": "a format can't hold it",
}
REMARKS = {
    "overlap": "two entities share words",
    "too_wide": "an entity is wider than the span limit",
    "duplicate": "an entity or a relation is there twice; the second one is left out",
    "self_relation": "a relation joins an entity with itself",
    "widened": "an entity was widened to whole words",
    "not_read": "an annotation of a kind that is neither an entity nor a relation",
}
_FIX = "correct the annotations, or leave faulty ones out with `invalid='drop'`"


class Findings:
    """Faults and remarks about one source.

    Args:
        name: what the source is called in messages.

    Attributes:
        faults, remarks: the first of each, word for word.
        counts: kind, of `FAULTS` or `REMARKS` -> how many.
    """

    def __init__(self, name: str) -> None:
        self.faults, self.remarks = Problems(name), Problems(name)
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, where: str, message: str) -> None:
        """Note one finding.

        Args:
            kind: of `FAULTS` or `REMARKS`.
            where: document, by line or id.
            message: what is wrong with it.
        """
        (self.faults if kind in FAULTS else self.remarks).add(where, message)
        self.counts[kind] += 1

    def take(self, other: Findings) -> None:
        """Add those of another look at the same source."""
        self.faults.take(other.faults)
        self.remarks.take(other.remarks)
        self.counts += other.counts

    def raise_if_faulty(self, fix: str = _FIX) -> None:
        """Raises:
        DataError: a fault was noted; lists the first ones, and counts all by kind.
        """
        if not self.faults.count:
            return
        counted = ", ".join(f"{kind} {count}" for kind, count in self.counts.most_common() if kind in FAULTS)
        number = "a fault" if self.faults.count == 1 else f"{self.faults.count} faults"
        raise DataError(f"{number} ({counted})\n  {self.faults.listed()}", where=self.faults.name, fix=fix)


def where_of(document: Document, number: int) -> str:
    """How messages call a document: by its number from 1, and its id."""
    name = document.get("id", document.get("orig_id")) if isinstance(document, dict) else None
    return f"document {number}" if name is None else f"document {number} ({shorten(name, 40)})"


def check_documents(
    documents: Sequence[Document],
    types: Types | None = None,
    *,
    symmetric: Collection[str] = (),
    max_span_size: int | None = None,
    name: str = "documents",
    places: Callable[[int], str] | None = None,
) -> tuple[list[Document], Findings]:
    """Look at every document for faults.

    Args:
        documents: to look at; they are not changed.
        types: the known ones; None takes any.
        symmetric: relation types that are symmetric besides those of `types`.
        max_span_size: span limit in words; wider entities are remarked on.
        name: what the source is called in messages.
        places: how messages call the document at a 0-based index; by number and id otherwise.

    Returns:
        The documents without what is faulty in them (a document of another shape is left out), and the findings.
    """
    findings, sound = Findings(name), []
    for index, document in enumerate(documents):
        where = places(index) if places else where_of(document, index + 1)
        reason = wrong_shape(document)
        if reason:
            findings.add("document", where, reason)
            continue
        check = _Check(document, where, types, symmetric, findings)
        gone = check.entities(max_span_size), check.relations()
        sound.append(without_faulty(check.document, *gone) if any(gone) else check.document)
    return sound, findings


def wrong_shape(document: Any) -> str | None:
    """In which way this is no document; None where it is one. What its numbers say is not looked at."""
    if not isinstance(document, dict):
        return f"is {shorten(document)}, which is no object with named fields"
    tokens = document.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        return "has no list of words under `tokens`" if not isinstance(tokens, list) else "has no words"
    for number, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            return f"word {number} is {shorten(token)}, which is no text"
    for key, fields in (("entities", ("start", "end")), ("relations", ("head", "tail"))):
        items = document.get(key)
        if not isinstance(items, list):
            return f"has no list under `{key}`"
        for number, one in enumerate(items):
            kind = one.get("type") if isinstance(one, dict) else None
            if not isinstance(kind, str) or not kind.strip():
                return f"{key}[{number}] is {shorten(one)}, which has no `type`"
            if any(type(one.get(part)) is not int for part in fields):
                return f"{key}[{number}] is {shorten(one)}; `{'` and `'.join(fields)}` have to be whole numbers"
            if not isinstance(one.get("score", 0.0), int | float):
                return f"{key}[{number}] has the score {shorten(one['score'])}, which is no number"
    for key in ("ignore", "ignore_pairs"):
        pairs = document.get(key, [])
        if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
            return f"`{key}` has to hold pairs of whole numbers"
    types = document.get("ignore_types", [])
    if not isinstance(types, list) or any(not isinstance(one, str) for one in types):
        return "`ignore_types` has to hold labels, such as `entity:Person`"
    return _wrong_offsets(document)


def _wrong_offsets(document: Document) -> str | None:
    text, offsets = document.get("text"), document.get("offsets")
    if text is not None and not isinstance(text, str):
        return f"`text` is {shorten(text)}, which is no text"
    if offsets is None:
        return None
    if (
        not isinstance(offsets, list)
        or len(offsets) != len(document["tokens"])
        or any(not _is_pair(one) for one in offsets)
    ):
        return "`offsets` have to hold a start and an end for every word"
    last = 0
    for number, (start, end) in enumerate(offsets):
        if not last <= start < end or (text is not None and end > len(text)):
            return f"word {number} has the characters {start} to {end}, which are not behind the word before it"
        if text is not None and text[start:end] != document["tokens"][number]:
            found, word = shorten(text[start:end], 30), shorten(document["tokens"][number], 30)
            return f"word {number} is {word}, but the text has {found} there"
        last = end
    return None


def _is_pair(one: Any) -> bool:
    return isinstance(one, list | tuple) and len(one) == 2 and all(type(part) is int for part in one)


class _Check:
    """Looks at one document of the right shape."""

    def __init__(
        self, document: Document, where: str, types: Types | None, symmetric: Collection[str], findings: Findings
    ) -> None:
        self.document, self.where, self.types, self._findings = document, where, types, findings
        self._symmetric = {*symmetric, *(name for name, so in (types.relations.items() if types else ()) if so)}
        self._faulty: set[int] = set()

    def add(self, kind: str, message: str) -> None:
        self._findings.add(kind, self.where, message)

    def entities(self, max_span_size: int | None) -> set[int]:
        """Indices of entities that are faulty or there twice; of the latter the first one takes over the relations."""
        length = len(self.document["tokens"])
        seen: dict[tuple[int, int, str], int] = {}
        twice: dict[int, int] = {}
        for number, entity in enumerate(self.document["entities"]):
            start, end, kind = *span_of(entity), entity["type"]
            told = f"entity {number} ({shorten(kind, 30)}, words {start} to {end})"
            if not 0 <= start < end <= length:
                self.add("offsets", f"{told} does not lie in the {length} words")
                self._faulty.add(number)
            elif self.types is not None and kind not in self.types.entities:
                self.add("unknown_type", f"{told}: {_unknown('entities', kind, self.types.entities)}")
                self._faulty.add(number)
            elif (start, end, kind) in seen:
                twice[number] = seen[start, end, kind]
                self.add("duplicate", f"{told} is the same as entity {twice[number]}")
            else:
                seen[start, end, kind] = number
                if max_span_size is not None and end - start > max_span_size:
                    self.add("too_wide", f"{told} is wider than the span limit of {max_span_size} words")
        self._overlaps(sorted(seen.items()))
        if twice:
            self._use_first(twice)
        return self._faulty | twice.keys()

    def _use_first(self, twice: dict[int, int]) -> None:
        """Let relations and ignored pairs name the first of equal entities."""
        made = dict(self.document)
        made["relations"] = [
            one | {end: twice.get(one[end], one[end]) for end in ("head", "tail")} for one in made["relations"]
        ]
        if "ignore_pairs" in made:
            made["ignore_pairs"] = [[twice.get(end, end) for end in pair] for pair in made["ignore_pairs"]]
        self.document = made

    def _overlaps(self, entities: list[tuple[tuple[int, int, str], int]]) -> None:
        for place, ((start, end, _), number) in enumerate(entities):
            for (other_start, other_end, _), other in entities[place + 1 :]:
                if not overlap((start, end), (other_start, other_end)):
                    break
                pair = sorted((number, other))
                self.add("overlap", f"entities {pair[0]} and {pair[1]} share words")

    def relations(self) -> set[int]:
        """Indices of relations that are faulty or there twice; faulty ignored ranges and pairs are taken out."""
        self._check_ignored()
        gone: set[int] = set()
        seen: dict[Any, int] = {}
        for number, relation in enumerate(self.document["relations"]):
            ends = relation["head"], relation["tail"]
            told = f"relation {number} ({shorten(relation['type'], 30)}, entities {ends[0]} and {ends[1]})"
            if self._is_faulty(relation, told):
                gone.add(number)
                continue
            key = (relation["type"], *(sorted(ends) if relation["type"] in self._symmetric else ends))
            if key in seen:
                self.add("duplicate", f"{told} is the same as relation {seen[key]}")
                gone.add(number)
                continue
            seen[key] = number
            if ends[0] == ends[1]:
                self.add("self_relation", f"{told} joins an entity with itself")
        return gone

    def _is_faulty(self, relation: dict[str, Any], told: str) -> bool:
        entities = self.document["entities"]
        for end in (relation["head"], relation["tail"]):
            there = 0 <= end < len(entities)
            if not there or end in self._faulty:
                self.add("missing_entity", f"{told}: entity {end} {'is faulty' if there else 'is not there'}")
                return True
        if self.types is not None and relation["type"] not in self.types.relations:
            unknown = _unknown("relations", relation["type"], list(self.types.relations))
            self.add("unknown_type", f"{told}: {unknown}")
            return True
        return False

    def _check_ignored(self) -> None:
        unsound = [one for one in self.document.get("ignore_types", []) if not self._is_label(one)]
        if unsound:
            kept = [one for one in self.document["ignore_types"] if one not in unsound]
            self.document = self.document | {"ignore_types": kept}
            self.add("unknown_type", f"`ignore_types` names {shorten(unsound[0], 40)}, which is no known type")
        length, many = len(self.document["tokens"]), len(self.document["entities"])
        ranges, pairs = self.document.get("ignore", []), self.document.get("ignore_pairs", [])
        sound = [one for one in ranges if 0 <= one[0] < one[1] <= length]
        if len(sound) < len(ranges):
            self.add("offsets", f"{len(ranges) - len(sound)} ignored ranges do not lie in the {length} words")
            self.document = self.document | {"ignore": sound}
        sound = [one for one in pairs if all(0 <= i < many for i in one)]
        if len(sound) < len(pairs):
            self.add("missing_entity", f"{len(pairs) - len(sound)} ignored pairs name entities that are not there")
            self.document = self.document | {"ignore_pairs": sound}

    def _is_label(self, label: str) -> bool:
        try:
            named = Types.of_labels([label])
        except ValueError:
            return False
        known = self.types
        return known is None or (set(named.entities) <= {*known.entities} and {*named.relations} <= {*known.relations})


def _unknown(what: str, kind: str, known: list[str]) -> str:
    meant = nearest(kind, known)
    return f"no such type of {what}" + (f"; did you mean {meant!r}?" if meant else "")
