"""spaCy's DocBin (.spacy). Needs the extra `spacy`.

Entities are written as `doc.spans["sc"]`, spaCy's name for spans that may overlap, and those that don't as `doc.ents`
too. Relations are written into the user data of a doc as a list of [type, head, tail], indices into these spans, and as
the extension `rel` that spaCy's tutorial on relations uses, {(head's first word, tail's first word): {type: 1.0}}.
Reading takes the spans where there are some, and `doc.ents` otherwise; our relations, and `rel` otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.data.sources.base import FileSource
from luthier.errors import DataError
from luthier.extraction.checking import Findings
from luthier.extraction.documents import Document, overlapping, span_of
from luthier.extraction.formats.base import Read, ReadingOptions, to_characters
from luthier.extraction.types import Types
from luthier.extras import how_to_install, is_installed
from luthier.storage.files import write_bytes

SPANS = "sc"
_RELATIONS = "luthier_relations"
_ID = "luthier_id"
# Where spaCy keeps a custom extension of a doc in its user data.
_REL = ("._.", "rel", None, None)


def _require(where: str) -> None:
    if not is_installed("spacy"):
        raise DataError("is a file of spaCy, which is not installed", where=where, fix=how_to_install("spacy"))


def read(source: FileSource, options: ReadingOptions, findings: Findings) -> Read:
    """See the module.

    Raises:
        DataError: spaCy is not installed, or the file is no DocBin.
    """
    _require(source.name)
    import spacy
    from spacy.tokens import DocBin

    try:
        docs = list(DocBin().from_bytes(source.read()).get_docs(spacy.blank("xx").vocab))
    except Exception as error:
        raise DataError(f"is no whole DocBin: {error}", where=source.name, fix="write the file again") from error
    made = Read([], [])
    for number, doc in enumerate(docs, 1):
        where = f"document {number}"
        try:
            document = _document(doc, where, findings)
        except (TypeError, ValueError, AttributeError) as error:
            findings.add("unreadable", where, f"its relations are of another shape: {error}")
            continue
        made.documents.append(document)
        made.places.append(where)
    return made


def _document(doc: Any, where: str, findings: Findings) -> Document:
    kept = [token for token in doc if not token.is_space]
    place = {token.i: new for new, token in enumerate(kept)}
    made: Document = {
        "tokens": [token.text for token in kept],
        "entities": [],
        "relations": [],
        "text": doc.text,
        "offsets": [[token.idx, token.idx + len(token.text)] for token in kept],
    }
    if _ID in doc.user_data:
        made = {"id": doc.user_data[_ID]} | made
    spans = (list(doc.spans[SPANS]) if SPANS in doc.spans else []) or list(doc.ents)
    for number, span in enumerate(spans):
        words = [place[i] for i in range(span.start, span.end) if i in place]
        if not words:
            findings.add("offsets", where, f"entity {number} holds no word")
            words = [-1]
        made["entities"].append({"type": span.label_, "start": words[0], "end": words[-1] + 1})
    made["relations"] = _relations(doc, made["entities"], place, where, findings)
    return made


def _relations(
    doc: Any, entities: list[dict[str, Any]], place: dict[int, int], where: str, findings: Findings
) -> list[dict[str, Any]]:
    if _RELATIONS in doc.user_data:
        return [{"type": kind, "head": head, "tail": tail} for kind, head, tail in doc.user_data[_RELATIONS]]
    first: dict[int, int] = {}
    for number, entity in enumerate(entities):
        first.setdefault(entity["start"], number)
    found = []
    for (head, tail), scores in (doc.user_data.get(_REL) or {}).items():
        for kind, score in scores.items():
            if score < 0.5:
                continue
            ends = [first.get(place.get(word, -1)) for word in (head, tail)]
            if None in ends:
                findings.add("missing_entity", where, f"{kind!r} from word {head} to {tail}, where no entities begin")
                continue
            found.append({"type": kind, "head": ends[0], "tail": ends[1]})
    return found


def write(path: Path, documents: Sequence[Document], types: Types, findings: Findings) -> None:
    """See the module.

    Raises:
        DataError: spaCy is not installed.
    """
    _require(str(path))
    import spacy
    from spacy.tokens import DocBin

    vocab = spacy.blank("xx").vocab
    box = DocBin(store_user_data=True)
    for document in documents:
        box.add(_doc(document, vocab))
    write_bytes(path, box.to_bytes())


def _doc(document: Document, vocab: Any) -> Any:
    from spacy.tokens import Doc, Span

    source = to_characters(document)
    words: list[str] = []
    spaces: list[bool] = []
    starts, last = [], 0
    for start, end in source.words or []:
        between = source.text[last:start]
        if between and words:
            spaces[-1] = between[0] == " "
            between = between[1:] if spaces[-1] else between
        if between:
            words.append(between)
            spaces.append(False)
        starts.append(len(words))
        words.append(source.text[start:end])
        spaces.append(False)
        last = end
    if source.text[last:]:
        words.append(source.text[last:])
        spaces.append(False)
    doc = Doc(vocab, words=words, spaces=spaces)
    entities = document["entities"]
    spans = [Span(doc, starts[e["start"]], starts[e["end"] - 1] + 1, label=e["type"]) for e in entities]
    doc.spans[SPANS] = spans
    shares = overlapping([span_of(entity) for entity in entities])
    doc.set_ents([span for span, shared in zip(spans, shares, strict=True) if not shared])
    doc.user_data[_RELATIONS] = [[one["type"], one["head"], one["tail"]] for one in document["relations"]]
    doc.user_data[_REL] = relations_by_words(spans, [one | {"score": 1.0} for one in document["relations"]])
    if document.get("id") is not None:
        doc.user_data[_ID] = document["id"]
    return doc


def relations_by_words(
    spans: Sequence[Any], relations: Sequence[dict[str, Any]]
) -> dict[tuple[int, int], dict[str, float]]:
    """{(head's first word, tail's first word): {type: score}}, as spaCy's tutorial on relations has them."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    for one in relations:
        found.setdefault((spans[one["head"]].start, spans[one["tail"]].start), {})[one["type"]] = one["score"]
    return found
