"""Label Studio's JSON export: tasks of {id, data: {text}, annotations: [{result: [...]}], predictions: [...]}.

A result of the type `labels` is an entity for each of its labels, one of the type `relation` a relation for each of its
labels: `direction` right goes from `from_id` to `to_id`, left the other way, bi makes the type a symmetric one. Of
several annotations of a task, the first that was not cancelled is read; without any, the first prediction; of the words
of a task without either nothing is known. Entities and relations with a score are written as a prediction, which Label
Studio shows as a suggestion, and so are documents beside them in which nothing was found, and all that are written as
suggestions; the others as annotation.
Offsets may count characters or UTF-16 units, as the text of an entity tells.
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
    to_characters,
    whole,
)
from luthier.extraction.types import Types
from luthier.storage.files import write_bytes

_FROM, _TO, _TEXT = "label", "text", "text"


def read(source: FileSource, options: ReadingOptions, findings: Findings) -> Read:
    """See the module."""
    return read_characters(source, options, findings, _characters)


def _characters(task: Any, where: str, findings: Findings, symmetric: set[str]) -> CharacterDocument | None:
    data = task.get("data") if isinstance(task, dict) else None
    text = _text(data) if isinstance(data, dict) else None
    if text is None:
        findings.add("document", where, "is no task whose `data` has one text")
        return None
    where = f"{where} (task {task['id']})" if "id" in task else where
    given = _given(task, where, findings)
    results = [] if given is None else items_of(given, "result", where, findings)
    mentions, links = _parts(results, where, findings, symmetric)
    return CharacterDocument(text, mentions, links, task.get("id"), place=where, annotated=given is not None)


def _text(data: dict[str, Any]) -> str | None:
    if isinstance(data.get(_TEXT), str):
        return str(data[_TEXT])
    texts = [value for value in data.values() if isinstance(value, str)]
    return texts[0] if len(texts) == 1 else None


def _given(task: dict[str, Any], where: str, findings: Findings) -> dict[str, Any] | None:
    """The annotation or prediction that is read; None of a task that nobody and nothing has looked at."""
    annotations, predictions = (items_of(task, key, where, findings) for key in ("annotations", "predictions"))
    done = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if len(done) > 1:
        findings.add("not_read", where, f"has {len(done)} annotations, of which the first is read")
    return next(iter(done or [one for one in predictions if isinstance(one, dict)]), None)


def _parts(results: list[Any], where: str, findings: Findings, symmetric: set[str]) -> tuple[list[Mention], list[Link]]:
    mentions, links = [], []
    for number, one in enumerate(results):
        kind = one.get("type") if isinstance(one, dict) else None
        value = one.get("value") if isinstance(one, dict) else None
        if kind == "relation" or not isinstance(value, dict):
            if kind != "relation":
                findings.add("not_read", where, f"result {number} is of the type {kind!r}")
            continue
        labels = value.get("labels") or value.get("hypertextlabels")
        if not isinstance(labels, list) or not labels:
            findings.add("not_read", where, f"result {number} has no labels")
            continue
        for place, label in enumerate(labels):
            key = key_of(one, number) if place == 0 else (key_of(one, number), place)
            score = value.get("score", one.get("score"))
            start, end = whole(value.get("start")), whole(value.get("end"))
            mentions.append(Mention(key, str(label), start, end, value.get("text"), score))
    for one in results:
        if not isinstance(one, dict) or one.get("type") != "relation":
            continue
        head, tail = one.get("from_id"), one.get("to_id")
        if one.get("direction") == "left":
            head, tail = tail, head
        for label in items_of(one, "labels", where, findings) or ["relation"]:
            links.append(Link(str(label), head, tail, one.get("score")))
            symmetric |= {str(label)} if one.get("direction") == "bi" else set()
    return mentions, links


def write(
    path: Path, documents: Sequence[Document], types: Types, findings: Findings, *, suggestions: bool = False
) -> None:
    """See the module."""
    tasks, sources = [], [to_characters(document) for document in documents]
    scored = any(map(_scores, sources))
    for number, source in enumerate(sources, 1):
        result = [_entity(m, number) for m in source.mentions]
        result += [_relation(one, number, types) for one in source.links]
        scores = _scores(source)
        task: dict[str, Any] = {"id": number if source.id is None else source.id, "data": {_TEXT: source.text}}
        if scores or suggestions or (scored and not result):
            mean = sum(scores) / max(1, len(scores))
            task["predictions"] = [{"model_version": "luthier", "score": mean, "result": result}]
        else:
            task["annotations"] = [{"result": result}]
        tasks.append(task)
    write_bytes(path, json_bytes(tasks, lines=False))


def _scores(source: CharacterDocument) -> list[float]:
    both = [*(mention.score for mention in source.mentions), *(link.score for link in source.links)]
    return [score for score in both if score is not None]


def _entity(mention: Mention, number: int) -> dict[str, Any]:
    value = {"start": mention.start, "end": mention.end, "text": mention.given, "labels": [mention.type]}
    made = {"id": f"d{number}e{mention.key}", "type": "labels", "from_name": _FROM, "to_name": _TO, "value": value}
    return made if mention.score is None else made | {"score": mention.score}


def _relation(link: Link, number: int, types: Types) -> dict[str, Any]:
    direction = "bi" if types.is_symmetric(link.type) else "right"
    ends = {"from_id": f"d{number}e{link.head}", "to_id": f"d{number}e{link.tail}"}
    made = {"type": "relation", **ends, "direction": direction, "labels": [link.type]}
    return made if link.score is None else made | {"score": link.score}
