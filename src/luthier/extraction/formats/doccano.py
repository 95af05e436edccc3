"""Doccano's JSONL export: one {id, text, entities, relations} a line, of entities {id, label, start_offset, end_offset}
and relations {type, from_id, to_id}; and its older form without relations, where `label` (or `labels`) holds
[start, end, name].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.data.sources.base import FileSource
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
    text = text_under(record, where, findings, "text", "data")
    if text is None:
        return None
    mentions, links = _mentions(record, where, findings), []
    for number, one in enumerate(items_of(record, "relations", where, findings)):
        if not isinstance(one, dict) or not isinstance(one.get("type"), str):
            findings.add("unreadable", where, f"relation {number} has no `type`")
            continue
        links.append(Link(one["type"], one.get("from_id"), one.get("to_id")))
    return CharacterDocument(text, mentions, links, record.get("id"))


def _mentions(record: dict[str, Any], where: str, findings: Findings) -> list[Mention]:
    made = []
    for number, one in enumerate(items_of(record, "entities", where, findings)):
        if not isinstance(one, dict) or not isinstance(one.get("label"), str):
            findings.add("unreadable", where, f"entity {number} has no `label`")
            continue
        start, end = whole(one.get("start_offset")), whole(one.get("end_offset"))
        made.append(Mention(key_of(one, number), one["label"], start, end))
    key = "label" if "label" in record else "labels"
    for number, one in enumerate(items_of(record, key, where, findings)):
        if not isinstance(one, list) or len(one) != 3 or not isinstance(one[2], str):
            findings.add("unreadable", where, f"{key}[{number}] is not [start, end, name]")
            continue
        made.append(Mention((key, number), one[2], whole(one[0]), whole(one[1])))
    return made


def write(path: Path, documents: Sequence[Document], types: Types, findings: Findings) -> None:
    """See the module. Ids of entities and relations count through the file."""
    records, entity, relation = [], 0, 0
    for number, document in enumerate(documents):
        source = to_characters(document)
        entities = [
            {"id": entity + m.key, "label": m.type, "start_offset": m.start, "end_offset": m.end}
            for m in source.mentions
        ]
        relations = [
            {"id": relation + i, "from_id": entity + one.head, "to_id": entity + one.tail, "type": one.type}
            for i, one in enumerate(source.links)
        ]
        name = number if source.id is None else source.id
        records.append({"id": name, "text": source.text, "entities": entities, "relations": relations, "Comments": []})
        entity, relation = entity + len(entities), relation + len(relations)
    write_bytes(path, json_bytes(records, lines=True))
