"""Columns, one word a line and a blank line between sentences: BIO tags, and relations from last word to last word.

    # sent_id = 17
    0   John    B-Peop  ['Live_In']     [3]
    1   lives   O       ['N']           [1]
    2   in      O       ['N']           [2]
    3   Paris   B-Loc   ['N']           [3]

Columns are parted by tabs: number, word, tag, names of the relations of which the entity that ends here is the head,
and the numbers of the words at which their tails end. `N` is no relation. It is the layout in which CoNLL04 is spread
(Bekoulis et al. 2018), with the comments of CoNLL-U; lines of `#doc ID` are read too, and so are BIOES and BILOU tags,
files without the last two columns, and files of words and tags alone. With a `# text` comment the words have their
places in that text. Entities that share words can't be written.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.data.reading.lines import decoded_lines
from luthier.data.sources.base import FileSource
from luthier.data.table import shorten
from luthier.extraction.checking import Findings
from luthier.extraction.documents import Document, overlapping, span_of
from luthier.extraction.formats.base import Read, ReadingOptions
from luthier.extraction.tokens import find_words
from luthier.extraction.types import Types
from luthier.storage.files import write_bytes

_NONE = "N"
_COMMENT = re.compile(r"#\s*(?:doc\s+|sent_id\s*=\s*|(text)\s*=\s*)(.*)")
# BIO, and what BIOES and BILOU add: an entity's last word, and one of a single word.
_TAG = re.compile(r"O|([BIESLU])-(.+)")
_BEGINNINGS, _GOES_ON = ("B", "S", "U"), ("B", "I")
_Row = tuple[int, list[str]]


def read(source: FileSource, options: ReadingOptions, findings: Findings) -> Read:
    """See the module."""
    made = Read([], [])
    for line, comments, rows in _blocks(source, options):
        where = f"document {len(made.documents) + 1} (line {line})"
        rows = _numbered(rows)
        sound = [row for row in rows if _is_word(row, where, findings)]
        if len(sound) < len(rows):
            continue
        document: Document = {"tokens": [cells[1] for _, cells in rows], **_entities(rows, where, findings)}
        document["relations"] = _relations(rows, document, where, findings)
        if "id" in comments:
            document = {"id": comments["id"]} | document
        text = comments.get("text")
        offsets = None if text is None else find_words(text, document["tokens"])
        if offsets is not None:
            document |= {"text": text, "offsets": offsets}
        elif text is not None:
            findings.add("text_differs", where, "the words do not make up the text")
        made.documents.append(document)
        made.places.append(where)
    return made


def _blocks(source: FileSource, options: ReadingOptions) -> Iterator[tuple[int, dict[str, str], list[_Row]]]:
    """First line, comments and rows of every sentence."""
    comments: dict[str, str] = {}
    rows: list[_Row] = []
    with source.open() as stream:
        for line, text in decoded_lines(stream, source.name, options.lines):
            comment = _COMMENT.fullmatch(text) if "\t" not in text or not rows else None
            if rows and (comment or not text.strip()):
                yield rows[0][0], comments, rows
                comments, rows = {}, []
            if comment:
                comments["text" if comment[1] else "id"] = comment[2]
            elif text.strip() and not (text.startswith("#") and "\t" not in text):
                rows.append((line, text.split("\t")))
    if rows:
        yield rows[0][0], comments, rows


def _numbered(rows: list[_Row]) -> list[_Row]:
    """The rows, with numbers where all of them are but a word and a tag."""
    if any(len(cells) != 2 or not _TAG.fullmatch(cells[1]) for _, cells in rows):
        return rows
    return [(line, [str(number), *cells]) for number, (line, cells) in enumerate(rows)]


def _is_word(row: _Row, where: str, findings: Findings) -> bool:
    """Without one of its words a sentence would be another one, so that it is left out whole."""
    line, cells = row
    if len(cells) >= 2 and cells[0].strip().isdecimal() and cells[1].strip():
        return True
    findings.add("document", where, f"line {line} is {shorten(cells)}, and holds no number and word")
    return False


def _entities(rows: list[_Row], where: str, findings: Findings) -> dict[str, Any]:
    """Entities by their tags; words whose tag has a fault are ignored ones."""
    entities: list[dict[str, Any]] = []
    ignored: list[list[int]] = []
    open_kind: str | None = None
    for number, (line, cells) in enumerate(rows):
        tag = cells[2] if len(cells) > 2 else ""
        found = _TAG.fullmatch(tag)
        begins, kind = (found[1], found[2]) if found else (None, None)
        if found is None:
            findings.add(
                "unreadable", where, f"line {line} is {shorten(cells)}, and not a number, a word and a BIO tag"
            )
        elif begins in _BEGINNINGS:
            entities.append({"type": kind, "start": number, "end": number + 1})
        elif begins and kind == open_kind:
            entities[-1]["end"] = number + 1
        elif begins:
            findings.add("unreadable", where, f"line {line} goes on with {tag!r} where no such entity is")
            kind = None
        if kind is None and tag != "O":
            ignored.append([number, number + 1])
        open_kind = kind if begins in _GOES_ON else None
    return {"entities": entities} | ({"ignore": ignored} if ignored else {})


def _relations(rows: list[_Row], document: Document, where: str, findings: Findings) -> list[dict[str, Any]]:
    ends = {entity["end"] - 1: number for number, entity in enumerate(document["entities"])}
    numbers = {cells[0]: place for place, (_, cells) in enumerate(rows)}
    found = []
    for place, (line, cells) in enumerate(rows):
        names, tails = (_list(cells, column) for column in (3, 4))
        if names is None or tails is None or len(names) != len(tails):
            findings.add("unreadable", where, f"line {line}: the last two columns are not lists of equal length")
            continue
        for name, tail in zip(names, tails, strict=True):
            if name == _NONE:
                continue
            pair = ends.get(place), ends.get(numbers.get(str(tail), -1))
            if None in pair:
                told = (
                    f"line {line}: {shorten(name, 30)} goes from word {cells[0]} to {tail}, where no two entities end"
                )
                findings.add("missing_entity", where, told)
                continue
            found.append({"type": str(name), "head": pair[0], "tail": pair[1]})
    return found


def _list(cells: list[str], column: int) -> list[Any] | None:
    if len(cells) <= column:
        return []
    try:
        value = ast.literal_eval(cells[column].strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def write(path: Path, documents: Sequence[Document], types: Types, findings: Findings) -> None:
    """See the module. What the columns can't hold is noted and left out."""
    blocks = []
    for number, document in enumerate(documents, 1):
        where = f"document {number}"
        words = document["tokens"]
        if not all(map(_fits, words)):
            findings.add("unwritable", where, "a word holds a tab or a line break")
            continue
        blocks.append("\n".join([*_comments(document), *_rows(document, where, findings)]) + "\n\n")
    write_bytes(path, "".join(blocks).encode())


def _fits(text: str) -> bool:
    return not re.search(r"[\t\r\n\0\ud800-\udfff]", text)


def _comments(document: Document) -> list[str]:
    made, text = [], document.get("text")
    if document.get("id") is not None and _fits(str(document["id"])):
        made.append(f"# sent_id = {document['id']}")
    if text is not None and _fits(text) and find_words(text, document["tokens"]) == document.get("offsets"):
        made.append(f"# text = {text}")
    return made


def _rows(document: Document, where: str, findings: Findings) -> list[str]:
    entities = document["entities"]
    shares = overlapping([span_of(entity) for entity in entities])
    gone = [shared or not _fits(entity["type"]) for shared, entity in zip(shares, entities, strict=True)]
    tags = ["O"] * len(document["tokens"])
    for number, entity in enumerate(entities):
        if gone[number]:
            reason = "shares words with another one" if shares[number] else "has a tab or a line break in its type"
            findings.add("unwritable", where, f"entity {number} {reason}")
            continue
        kind, (start, end) = entity["type"], span_of(entity)
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    names: list[list[str]] = [[] for _ in tags]
    tails: list[list[int]] = [[] for _ in tags]
    for number, relation in enumerate(document["relations"]):
        if gone[relation["head"]] or gone[relation["tail"]] or relation["type"] == _NONE:
            findings.add("unwritable", where, f"relation {number} is of an entity that can't be written, or called N")
            continue
        place = entities[relation["head"]]["end"] - 1
        names[place].append(relation["type"])
        tails[place].append(entities[relation["tail"]]["end"] - 1)
    return [
        f"{i}\t{word}\t{tags[i]}\t{names[i] or [_NONE]}\t{tails[i] or [i]}" for i, word in enumerate(document["tokens"])
    ]
