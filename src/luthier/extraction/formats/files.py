"""Annotation files -> checked documents, and back.

corpus = read_documents("corpus/train.json")
write_documents("brat/", corpus.documents, "brat", types=corpus.types)
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from luthier.data.reading.lines import ReadOptions, decoded_lines
from luthier.data.reading.readers import parse_json
from luthier.data.sources.base import FileSource, FolderSource, resolve, unpacked
from luthier.errors import DataError, WorkspaceError, nearest
from luthier.extraction.checking import Findings, check_documents, wrong_shape
from luthier.extraction.documents import Document, without_faulty
from luthier.extraction.formats.base import Read, ReadingOptions
from luthier.extraction.tokens import TOKENISERS
from luthier.extraction.types import Types
from luthier.extras import how_to_install, is_installed
from luthier.storage.files import reporting_failed_writes

IGNORE = "IGNORE"
# Name -> what it is. Each is the module of that name here.
FORMATS = {
    "spert": "SpERT's JSON, words and indices",
    "columns": "BIO tags and relations in columns",
    "brat": "a folder of BRAT standoff",
    "spacy_docbin": "spaCy's DocBin",
    "label_studio": "Label Studio's JSON export",
    "doccano": "Doccano's JSONL export",
    "offsets_jsonl": "JSONL with character offsets",
}
Invalid = Literal["refuse", "drop"]
# Records that are looked at for a format.
_LOOKED_AT = 1000


@dataclass
class Corpus:
    """Documents of one source.

    Attributes:
        documents: sound ones, in file order.
        types: known, or those that the documents use.
        findings: what was wrong or is remarkable, counted by kind.
    """

    documents: list[Document]
    types: Types
    findings: Findings


def read_documents(
    source: str | Path | FileSource | FolderSource,
    format: str | None = None,  # noqa: A002
    *,
    types: Types | None = None,
    symmetric: Iterable[str] = (),
    invalid: Invalid = "refuse",
    ignore_labels: Iterable[str] = (IGNORE,),
    max_span_size: int | None = None,
    options: ReadingOptions | None = None,
) -> Corpus:
    """Read annotations of any known format.

    Args:
        source: a file, a folder of BRAT files, or what else a data block may name.
        format: of `FORMATS`; by name and content otherwise.
        types: the known ones; otherwise those that the format brings, or all that occur.
        symmetric: relation types that are symmetric, beside those that the source says are; `types` says of each.
        invalid: `refuse` documents with faults, or `drop` the faulty entities, relations and documents.
        ignore_labels: types that mark what is not annotated: an entity of one makes its words an ignored range, a
            relation of one makes its pair an ignored pair. See `luthier.extraction.documents`.
        max_span_size: wider entities are remarked on.
        options: tokeniser, alignment, encoding.

    Raises:
        DataError: the source can't be read, or has faults that are refused; lists them with their places.
    """
    options = options or ReadingOptions()
    _one_of(options.tokeniser, TOKENISERS, "tokeniser")
    _one_of(options.align, ("strict", "widen"), "align")
    _one_of(invalid, ("refuse", "drop"), "invalid")
    findings = Findings(source.name if isinstance(source, FolderSource) else str(source))
    folder = source.path if isinstance(source, FolderSource) else source
    if not isinstance(folder, FileSource) and Path(folder).is_dir():
        read: Read = _module(format or "brat").read(Path(folder), options, findings)
    else:
        found = folder if isinstance(folder, FileSource) else resolve(str(folder))
        if not isinstance(found, FileSource):
            raise DataError("is no file", where=findings.faults.name, fix="name a file, or a folder of BRAT files")
        findings = Findings(found.name)
        read = _module(format or guess_format(found, options)).read(found, options, findings)
    labels = frozenset(ignore_labels)
    documents = [
        with_ignored(one, labels, where, findings) for one, where in zip(read.documents, read.places, strict=True)
    ]
    given = types or read.types
    both_ways = {*symmetric, *read.symmetric}
    documents, checked = check_documents(
        documents,
        given,
        symmetric=both_ways,
        max_span_size=max_span_size,
        name=findings.faults.name,
        places=read.places.__getitem__,
    )
    findings.take(checked)
    if not documents and not findings.faults.count:
        raise DataError("holds no documents", where=findings.faults.name, fix="is it the right file?")
    if invalid == "refuse":
        findings.raise_if_faulty()
    known = given or Types.of(documents, both_ways)
    if types is None:
        known = Types(known.entities, {name: both or name in both_ways for name, both in known.relations.items()})
    return Corpus(documents, known, findings)


def write_documents(
    path: str | Path,
    documents: Sequence[Document],
    format: str,  # noqa: A002
    *,
    types: Types | None = None,
    invalid: Invalid = "refuse",
    ignore_label: str = IGNORE,
    suggestions: bool = False,
) -> Findings:
    """Write annotations.

    Args:
        path: the file, or for BRAT the folder.
        documents: with `score`, they are written as predictions where a format knows these.
        format: of `FORMATS`.
        types: to write beside them; those that occur otherwise.
        invalid: `refuse` what the format can't hold, or `drop` it.
        ignore_label: type under which ignored ranges and pairs are written, in formats that have no place for them.
        suggestions: whether people have still to look at all of the documents, those in which nothing was found, too;
            Label Studio alone tells such ones apart.

    Returns:
        What was left out.

    Raises:
        DataError: there is no such format, its extra is not installed, or documents have faults that are refused.
        WorkspaceError: the place can't be written, or is a folder that holds BRAT files already.
    """
    module = _module(format)
    _one_of(invalid, ("refuse", "drop"), "invalid")
    check_place(path, format)
    documents, findings = check_documents(documents, types, name=str(path))
    if invalid == "refuse":
        findings.raise_if_faulty()
    types = types or Types.of(documents)
    if format != "spert":
        for number, one in enumerate(documents, 1):
            if one.get("ignore_types"):
                findings.add("unwritable", f"document {number}", f"the format {format} has no place for `ignore_types`")
        if invalid == "refuse":
            findings.raise_if_faulty("write SpERT's JSON, which has one, or leave it out with `invalid='drop'`")
        documents = [_with_labels(one, ignore_label) for one in documents]
        types = _with_label(types, documents, ignore_label)
    write = partial(module.write, suggestions=True) if suggestions and format == "label_studio" else module.write
    if invalid == "refuse" or format == "brat":
        _write_whole(write, Path(path), documents, types, findings, invalid)
    else:
        write(Path(path), documents, types, findings)
    return findings


def _write_whole(
    write: Callable[..., None],
    path: Path,
    documents: list[Document],
    types: Types,
    findings: Findings,
    invalid: Invalid,
) -> None:
    """Write to a place beside, and put it where it belongs when all is there and nothing had to be left out that is
    refused: a folder of which a part is there could not be written again."""
    path = Path(os.path.realpath(path))
    with reporting_failed_writes(path), ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-"))
        place, left_out = Path(scratch) / path.name, Findings(findings.faults.name)
        write(place, documents, types, left_out)
        if invalid == "refuse":
            left_out.raise_if_faulty("take a format that can hold this, or leave it out with `invalid='drop'`")
        findings.take(left_out)
        if place.is_dir() and (not path.exists() or not any(path.iterdir())):
            place.replace(path)
        for made in sorted(Path(scratch).rglob("*")):
            if made.is_file():
                target = path.parent / made.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(made, target)


def guess_format(source: FileSource, options: ReadingOptions | None = None) -> str:
    """The format of a file, by its suffix and its first record.

    Raises:
        DataError: it is none that is known.
    """
    name = unpacked(source.file_name).lower()
    if name.endswith(".spacy"):
        return "spacy_docbin"
    if name.endswith((".conll", ".conllu", ".tsv", ".txt", ".bio")):
        return "columns"
    likely = None
    for record in islice(_records(source, (options or ReadingOptions()).lines), _LOOKED_AT):
        name, sure = _format_of(record)
        if sure:
            return name
        likely = likely or name
    if likely:
        return likely
    plain = "texts without annotations can be a .txt with a text a line, or lines of JSON with the key `text`"
    fix = f"give it the name and the form of one: {', '.join(FORMATS)}; {plain}"
    raise DataError("is in none of the known formats", where=source.name, fix=fix)


def _format_of(record: Any) -> tuple[str, bool]:
    """The format of a record, and whether it can be no other; empty where it is of none."""
    if not isinstance(record, dict):
        return "", False
    if "tokens" in record:
        return "spert", True
    if isinstance(record.get("data"), dict):
        return "label_studio", True
    lists = {key: record[key] for key in ("entities", "label", "labels") if isinstance(record.get(key), list)}
    items = [one for items in lists.values() for one in items[:1]]
    if any(isinstance(one, list) or (isinstance(one, dict) and "start_offset" in one) for one in items):
        return "doccano", True
    if "Comments" in record:
        return "doccano", True
    if "text" not in record:
        return "", False
    if not items and lists.keys() & {"label", "labels"}:
        return "doccano", False  # where nothing is annotated, only the name of the list tells
    return "offsets_jsonl", any(isinstance(one, dict) for found in lists.values() for one in found)


def _records(source: FileSource, read: ReadOptions) -> Iterator[Any]:
    """The records of a json list or a jsonl file, lines that are no JSON left out."""
    if source.format == "json":
        value = parse_json(source, read)
        yield from value if isinstance(value, list) else ()
    elif source.format == "jsonl":
        with source.open() as stream:
            for _, line in decoded_lines(stream, source.name, read):
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    continue


def check_format(name: str) -> None:
    """Raises:
    DataError: there is no such format, or its extra is not installed; names the nearest one.
    """
    _one_of(name, tuple(FORMATS), "format")
    extra = {"spacy_docbin": "spacy"}.get(name)
    if extra and not is_installed(extra):
        raise DataError(f"the format {name} needs an extra that is not installed", fix=how_to_install(extra))


def check_place(path: str | Path, format: str) -> None:  # noqa: A002
    """Raises:
    WorkspaceError: documents in this format can't be written there: it is a folder that holds BRAT files already.
    """
    if format == "brat" and any(Path(path).rglob("*.ann")):
        raise WorkspaceError("holds BRAT files already", where=str(path), fix="name another folder, or empty this one")


def _module(name: str) -> ModuleType:
    _one_of(name, tuple(FORMATS), "format")
    return importlib.import_module(f"luthier.extraction.formats.{name}")


def _one_of(value: str, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        meant = nearest(value, known)
        fix = f"did you mean {meant!r}?" if meant else f"take one of {', '.join(known)}"
        raise DataError(f"there is no {what} {value!r}", fix=fix)


def with_ignored(document: Any, labels: frozenset[str], where: str, findings: Findings) -> Any:
    """The document with entities and relations of these types made ignored ranges and pairs."""
    if wrong_shape(document):
        return document
    entities = {i for i, one in enumerate(document["entities"]) if one["type"] in labels}
    relations = {i for i, one in enumerate(document["relations"]) if one["type"] in labels}
    if not entities and not relations:
        return document
    made = dict(document)
    ranges = [[document["entities"][i]["start"], document["entities"][i]["end"]] for i in sorted(entities)]
    pairs = [[document["relations"][i]["head"], document["relations"][i]["tail"]] for i in sorted(relations)]
    for name, more in (("ignore", ranges), ("ignore_pairs", pairs)):
        if more:
            made[name] = [*document.get(name, []), *more]
    for number, one in enumerate(document["relations"]):
        ends = {one["head"], one["tail"]}
        if ends & entities:
            findings.add("not_read", where, f"relation {number} is one of an ignored range")
        elif number in relations and not all(0 <= end < len(document["entities"]) for end in ends):
            findings.add("missing_entity", where, f"ignored pair {number} names an entity that is not there")
    return without_faulty(made, entities, relations)


def _with_labels(document: Document, label: str) -> Document:
    """The document with ignored ranges and pairs as entities and relations of one type."""
    ranges, pairs = document.get("ignore", []), document.get("ignore_pairs", [])
    if not ranges and not pairs and "ignore_types" not in document:
        return document
    entities = [*document["entities"], *({"type": label, "start": start, "end": end} for start, end in ranges)]
    relations = [*document["relations"], *({"type": label, "head": head, "tail": tail} for head, tail in pairs)]
    rest = {key: value for key, value in document.items() if key not in ("ignore", "ignore_pairs", "ignore_types")}
    return rest | {"entities": entities, "relations": relations}


def _with_label(types: Types, documents: Sequence[Document], label: str) -> Types:
    used = Types.of(documents)
    entities = [*types.entities, *([label] if label in used.entities and label not in types.entities else [])]
    extra = {label: False} if label in used.relations and label not in types.relations else {}
    return Types(entities, types.relations | extra)
