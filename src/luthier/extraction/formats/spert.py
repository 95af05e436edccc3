"""SpERT's JSON: a list of {tokens, entities: [{type, start, end}], relations: [{type, head, tail}], orig_id}.

Types are those of `NAME.types.json` beside a file called NAME.json, of `types.json`, or of the one `..._types.json` in
the same folder, where there is one; the first of these is written. With the suffix .jsonl there is one object a line.
`text`, `offsets`, `ignore`, `ignore_pairs`, `ignore_types` and `score` are kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.data.reading.lines import ReadOptions
from luthier.data.reading.readers import parse_json
from luthier.data.sources.base import FileSource
from luthier.data.table import shorten
from luthier.errors import DataError
from luthier.extraction.checking import Findings
from luthier.extraction.documents import Document
from luthier.extraction.formats.base import Read, ReadingOptions, json_bytes, json_records
from luthier.extraction.types import Types, own_types_file, types_file_beside
from luthier.storage.files import write_bytes

_KEPT = ("tokens", "entities", "relations", "id", "text", "offsets", "ignore", "ignore_pairs", "ignore_types")


def read(source: FileSource, options: ReadingOptions, findings: Findings) -> Read:
    """See the module."""
    documents, places = [], []
    for where, record in json_records(source, options, findings):
        document = _document(record)
        name = document.get("id") if isinstance(document, dict) else None
        places.append(where if name is None else f"{where} ({shorten(name, 40)})")
        documents.append(document)
    beside = types_file_beside(source)
    return Read(documents, places, None if beside is None else read_types(beside))


def _document(record: Any) -> Any:
    """The record as a document; one that is none stays as it is, for the check to say so."""
    if not isinstance(record, dict):
        return record
    made = {key: record[key] for key in _KEPT if record.get(key) is not None}
    if "id" not in made and record.get("orig_id") is not None:
        made["id"] = record["orig_id"]
    return {"entities": [], "relations": []} | made


def read_types(file: FileSource) -> Types:
    """Types of a types.json.

    Raises:
        DataError: it can't be read, or has another shape.
    """
    value = parse_json(file, ReadOptions())
    fix = "write {entities: {NAME: {}}, relations: {NAME: {symmetric: false}}}"
    if not isinstance(value, dict):
        raise DataError("names no types", where=file.name, fix=fix)
    try:
        return Types.from_json(value)
    except ValueError as error:
        raise DataError(str(error), where=file.name, fix=fix) from error


def write(path: Path, documents: Sequence[Document], types: Types, findings: Findings) -> None:
    """See the module."""
    records = [
        {("orig_id" if key == "id" else key): document[key] for key in _KEPT if key in document}
        for document in documents
    ]
    write_bytes(path, json_bytes(records, lines=path.suffix == ".jsonl"))
    write_bytes(own_types_file(path), (json.dumps(types.to_json(), indent=1) + "\n").encode())
