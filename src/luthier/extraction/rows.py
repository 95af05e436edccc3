"""Rows for training from annotation files, and what of them is not known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from luthier.data.reading.lines import ReadOptions
from luthier.data.sources.base import FileSource, FolderSource
from luthier.data.table import Problems, Table
from luthier.errors import DataError
from luthier.extraction.checking import Findings
from luthier.extraction.documents import whole
from luthier.extraction.formats.base import ReadingOptions
from luthier.extraction.formats.files import IGNORE, guess_format, read_documents, with_ignored
from luthier.extraction.types import Types

_READ, _RANGES = ("tokens", "entities", "relations"), ("ignore", "ignore_pairs")


def annotated_table(source: FileSource | FolderSource, read: ReadOptions, noted: Problems | None) -> Table | None:
    """The documents of an annotation tool's file or folder; None for one with columns of its own, as SpERT's JSON has.

    Args:
        source: the file, or a folder of BRAT files.
        read: encoding and longest line of text.
        noted: takes the faults of what is left out; None refuses them.

    Raises:
        DataError: the file has faults that are refused; lists them.
    """
    options = ReadingOptions(encoding=read.encoding, max_line_bytes=read.max_line_bytes)
    try:
        name = "brat" if isinstance(source, FolderSource) else guess_format(source, options)
    except DataError:
        return None
    if name == "spert":
        return None
    corpus = read_documents(source, name, invalid="refuse" if noted is None else "drop", options=options)
    if noted is not None:
        noted.take(corpus.findings.faults)
    keys = [*_READ, *(key for key in _RANGES if any(key in one for one in corpus.documents))]
    table = Table(source.name, {key: [one.get(key) for one in corpus.documents] for key in keys})
    # What the rows use is found in them; only that a relation has no direction has to be told.
    used = Types.of(corpus.documents, (name for name, both in corpus.types.relations.items() if both))
    return replace(table, labels=used.labels) if any(used.symmetric) else table


def with_unsure(table: Table) -> Table:
    """The rows with entities and relations of the type IGNORE as ignored words and pairs; see
    `luthier.extraction.documents`.

    Raises:
        DataError: an ignored pair names an entity that is not there.
    """
    columns = table.columns
    marked = [row for row in range(len(table)) if any(_marks(columns[n][row]) for n in _READ[1:] if n in columns)]
    if not marked:
        return table
    made = {name: list(cells) for name, cells in columns.items()}
    findings = Findings(table.name)
    for row in marked:
        lists = {name: _decoded(made[name][row]) for name in (*_READ, *_RANGES) if name in made}
        one = with_ignored(whole(lists), frozenset((IGNORE,)), table.place(row), findings)
        for name in (*_READ, *_RANGES):
            made.setdefault(name, [None] * len(table))[row] = one[name]
    findings.raise_if_faulty("correct the annotations")
    return replace(table, columns=made)


def _marks(cell: Any) -> bool:
    return any(isinstance(one, dict) and one.get("type") == IGNORE for one in _decoded(cell) or ())


def _decoded(cell: Any) -> Any:
    """A cell that is a list, or the JSON text of one; None for any other, which is told of where rows are checked."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return None
    return list(cell) if isinstance(cell, list | tuple) else None
