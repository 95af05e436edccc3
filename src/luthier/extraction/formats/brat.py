"""BRAT standoff: a folder with NAME.txt and NAME.ann for every document, and annotation.conf.

Read are text-bound annotations (T), relations (R) and equivalences (*, a symmetric relation of every two); the triggers
of events are entities, and events, attributes, normalisations and notes are remarked on. annotation.conf stands in the
folder or in one of the three above it; relations marked `<REL-TYPE>:symmetric` in it are symmetric. Which argument of a
relation is its head is told by their names: `Arg1`, or the first of others in annotation.conf. Entities in several
pieces are faults of the kind `discontinuous`. Scores are not written.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from luthier.data.sources.base import BRAT_TYPES, configuration_of
from luthier.data.table import shorten
from luthier.errors import DataError
from luthier.extraction.checking import Findings
from luthier.extraction.documents import Document
from luthier.extraction.formats.base import (
    CharacterDocument,
    Link,
    Mention,
    Read,
    ReadingOptions,
    file_at,
    text_of,
    to_characters,
    to_document,
)
from luthier.extraction.types import Types
from luthier.storage.files import write_bytes

_RELATION = re.compile(r"(\S+)\s+([^\s:]+):(\S+)\s+([^\s:]+):(\S+)\s*")
# Names of head and tail, where a relation has no others.
_ARGUMENTS = ("Arg1", "Arg2")
_SPAN = re.compile(r"(.+?) (\d+) (\d+)")
_PIECES = re.compile(r".+? \d+ \d+(;\d+ \d+)+")


def read(folder: Path, options: ReadingOptions, findings: Findings) -> Read:
    """See the module.

    Raises:
        DataError: the folder has no .ann file, or one without its .txt.
    """
    files = sorted(folder.rglob("*.ann"))
    if not files:
        raise DataError("has no .ann file", where=str(folder), fix="name the folder with the .txt and .ann files")
    made = Read([], [])
    configuration = configuration_of(folder)
    made.types, named = (None, {}) if configuration is None else _configured(configuration, options)
    for file in files:
        where = file.relative_to(folder).as_posix()
        if not file.with_suffix(".txt").is_file():
            raise DataError("has no .txt file beside it", where=str(file), fix="copy the whole folder")
        text = text_of(file_at(file.with_suffix(".txt")), options.encoding)
        name = file.relative_to(folder).with_suffix("").as_posix()
        source = CharacterDocument(text, [], [], name)
        for line, row in enumerate(_unmarked(file, options).split("\n"), 1):
            _take(row.rstrip("\r"), f"{where}, line {line}", source, findings, made.symmetric, named)
        made.places.append(where)
        made.documents.append(to_document(source, where, options, findings))
    return made


def _unmarked(path: Path, options: ReadingOptions) -> str:
    """The characters of a file without a byte order mark; of a text, whose characters are counted, it is one."""
    return text_of(file_at(path), options.encoding).removeprefix("\ufeff")


def _take(
    row: str,
    where: str,
    source: CharacterDocument,
    findings: Findings,
    symmetric: set[str],
    named: Mapping[str, tuple[str, ...]],
) -> None:
    """Put one line of an .ann file into the document; `named` are the arguments of relations, by their types."""
    if not row.strip():
        return
    key, _, rest = row.partition("\t")
    if key.startswith("T"):
        told, _, given = rest.partition("\t")
        found = _SPAN.fullmatch(told)
        if found:
            source.mentions.append(Mention(key, found[1], int(found[2]), int(found[3]), given or None))
        elif _PIECES.fullmatch(told):
            findings.add("discontinuous", where, f"{key} is in several pieces: {shorten(told)}")
            places = [int(one) for one in re.findall(r"\d+", told.partition(" ")[2])]
            source.mentions.append(Mention(key, told, min(places), max(places), faulty=True))
        else:
            findings.add("unreadable", where, f"{shorten(row)} is no type, start and end")
    elif key.startswith("R"):
        ends = _RELATION.fullmatch(rest)
        if ends is None:
            findings.add("unreadable", where, f"{shorten(row)} is no type with two arguments")
            return
        kind, first, head, second, tail = ends.groups()
        if (second, first) == (_ARGUMENTS if first in _ARGUMENTS else named.get(kind)):
            head, tail = tail, head
        source.links.append(Link(kind, head, tail))
    elif key == "*":
        name, *members = rest.split() or [""]
        if len(members) < 2:
            findings.add("unreadable", where, f"{shorten(row)} is no type with two arguments")
            return
        symmetric.add(name)
        source.links += [Link(name, head, tail) for head, tail in itertools.combinations(members, 2)]
    elif key[:1] in "EAMN#":
        findings.add("not_read", where, f"{key} is neither an entity nor a relation")
    else:
        findings.add("unreadable", where, f"{shorten(row)} is no annotation")


def _configured(path: Path, options: ReadingOptions) -> tuple[Types | None, dict[str, tuple[str, ...]]]:
    """Types that annotation.conf names, None where it names none, and the names of each relation's arguments."""
    section, types, named = "", Types(), dict[str, tuple[str, ...]]()
    for row in _unmarked(path, options).splitlines():
        row = row.split("#")[0].strip()
        if row.startswith("["):
            section = row.strip("[] ")
        elif row and section == "entities" and not row.startswith("<"):
            types.entities.append(row.lstrip("!"))
        elif row and section == "relations" and not row.startswith("<"):
            name, _, arguments = re.sub(r"\s+", " ", row).partition(" ")
            symmetric = "symmetric" in arguments.partition("<REL-TYPE>:")[2]
            types.relations[name] = types.relations.get(name, False) or symmetric
            named.setdefault(name, tuple(re.findall(r"(?:^|, ?)([^\s,:<]+):", arguments)[:2]))
        elif row and section == "events" and not row.startswith("<"):  # their triggers are marked as entities are
            types.entities.append(row.split()[0].lstrip("!"))
    types.entities[:] = dict.fromkeys(types.entities)
    return types if types.entities else None, named


def write(folder: Path, documents: Sequence[Document], types: Types, findings: Findings) -> None:
    """See the module. Files are called after the ids of documents, or by number."""
    taken: set[str] = set()
    for number, document in enumerate(documents, 1):
        source = to_characters(document)
        name = _file_name(str(document.get("id") or ""), number, taken)
        rows, gone = [], set[int]()
        for m in source.mentions:
            given = (m.given or "").replace("\n", " ").replace("\r", " ")
            if _has_blank(m.type):
                findings.add("unwritable", name, f"BRAT takes no blank in the type {m.type!r}")
                gone.add(m.key)
                continue
            rows.append(f"T{m.key + 1}\t{m.type} {m.start} {m.end}\t{given}\n")
        for place, one in enumerate(source.links, 1):
            if _has_blank(one.type):
                findings.add("unwritable", name, f"BRAT takes no blank in the type {one.type!r}")
                continue
            if gone & {one.head, one.tail}:
                findings.add("unwritable", name, f"relation {one.type!r} is of an entity that can't be written")
                continue
            rows.append(f"R{place}\t{one.type} Arg1:T{one.head + 1} Arg2:T{one.tail + 1}\t\n")
        if re.search("[\ud800-\udfff]", source.text):
            findings.add("unwritable", name, "the text holds half a character (a lone surrogate)")
            continue
        write_bytes(folder / f"{name}.txt", source.text.encode())
        write_bytes(folder / f"{name}.ann", "".join(rows).encode())
    write_bytes(folder / BRAT_TYPES, _conf(types).encode())


def _file_name(wanted: str, number: int, taken: set[str]) -> str:
    name = re.sub(r"[^\w.-]", "_", wanted).strip(".")[:120] or f"document_{number:06d}"
    while name.lower() in taken:
        name = f"{name}_{number}"
    taken.add(name.lower())
    return name


def _has_blank(name: str) -> bool:
    return bool(re.search(r"\s", name))


def _conf(types: Types) -> str:
    rows = ["[entities]", *(name for name in types.entities if not _has_blank(name)), "", "[relations]"]
    for name, symmetric in types.relations.items():
        if _has_blank(name):
            continue
        rows.append(f"{name}\tArg1:<ENTITY>, Arg2:<ENTITY>{', <REL-TYPE>:symmetric' if symmetric else ''}")
    return "\n".join([*rows, "", "[events]", "", "[attributes]", ""])
