"""Character-offset JSONL: one {text, entities: [{type, start, end}], relations: [{type, head, tail}], id} a line.

Offsets count characters (code points), end exclusive. A relation names entities by their `id` where they have one, and
by their place in the list otherwise. `label` and `labels` are taken for `type`, `spans` for `entities`, and so are
`label` and `labels` where they hold objects, as in the JSON-MIN of Label Studio. `words`, [start, end]
characters of every word, is optional and takes the place of the tokeniser.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.data.sources.base import FileSource
from luthier.data.table import shorten
from luthier.extraction.checking import Findings
from luthier.extraction.documents import Document
from luthier.extraction.formats.base import (
    CharacterDocument,
    Link,
    Mention,
    Read,
    ReadingOptions,
    items_of,
    json_bytes,
    key_of,
    read_characters,
    text_under,
    to_characters,
    whole,
)
from luthier.extraction.types import Types
from luthier.storage.files import write_bytes


def read(source: FileSource, options: ReadingOptions, findings: Findings) -> Read:
    """See the module."""
    return read_characters(source, options, findings, _characters)


def _characters(record: Any, where: str, findings: Findings, symmetric: set[str]) -> CharacterDocument | None:
    text = text_under(record, where, findings, "text")
    if text is None:
        return None
    mentions, links = [], []
    for number, one in enumerate(_entities(record, where, findings)):
        kind = _kind_of(one)
        if not isinstance(kind, str):
            findings.add("unreadable", where, f"entity {number} has no `type`")
            continue
        start, end = whole(one.get("start")), whole(one.get("end"))
        mentions.append(Mention(key_of(one, number), kind, start, end, one.get("text"), one.get("score")))
    for number, one in enumerate(items_of(record, "relations", where, findings)):
        kind = one.get("type", one.get("label")) if isinstance(one, dict) else None
        if not isinstance(kind, str):
            findings.add("unreadable", where, f"relation {number} has no `type`")
            continue
        links.append(Link(kind, one.get("head"), one.get("tail"), one.get("score")))
    return CharacterDocument(text, mentions, links, record.get("id"), _words(record, where, findings))


def _entities(record: dict[str, Any], where: str, findings: Findings) -> list[Any]:
    found = items_of(record, "entities", where, findings) or items_of(record, "spans", where, findings)
    if found:
        return found
    # As Label Studio exports them in JSON-MIN.
    lists = [record[key] for key in ("label", "labels") if isinstance(record.get(key), list)]
    return next((one for one in lists if any(isinstance(item, dict) for item in one)), [])


def _kind_of(entity: Any) -> Any:
    """Its type; where it is given as a list, the one in it."""
    kind = entity.get("type", entity.get("label", entity.get("labels"))) if isinstance(entity, dict) else None
    return kind[0] if isinstance(kind, list) and len(kind) == 1 else kind


def _words(record: dict[str, Any], where: str, findings: Findings) -> list[list[int]] | None:
    words = record.get("words")
    if words is None:
        return None
    made: list[list[int]] = []
    for one in words if isinstance(words, list) else [words]:
        pair = one if isinstance(one, list) and len(one) == 2 and all(type(part) is int for part in one) else [0, 0]
        if not (made[-1][1] if made else 0) <= pair[0] < pair[1] <= len(record["text"]):
            findings.add("offsets", where, f"`words` holds {shorten(one)}, which is no word behind the one before it")
            return None
        made.append(list(pair))
    return made


def write(path: Path, documents: Sequence[Document], types: Types, findings: Findings) -> None:
    """See the module; `words` is written, so that reading gives the same ones."""
    write_bytes(path, json_bytes([_record(to_characters(document)) for document in documents], lines=True))


def _record(source: CharacterDocument) -> dict[str, Any]:
    entities = [
        {"type": m.type, "start": m.start, "end": m.end, "text": m.given, "score": m.score} for m in source.mentions
    ]
    relations = [{"type": one.type, "head": one.head, "tail": one.tail, "score": one.score} for one in source.links]
    record = {"id": source.id, "text": source.text}
    lists = {"entities": [_filled(e) for e in entities], "relations": [_filled(r) for r in relations]}
    return _filled(record) | lists | {"words": source.words}


def _filled(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value is not None}
