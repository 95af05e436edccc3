"""What every format shares: options, what was read, and documents by characters.

Formats that place entities by characters are aligned to words here. A span that begins or ends inside a word is a
fault of the kind `misaligned`, or, where the options say `align="widen"`, covers the whole words and is remarked on.
The words of an entity that has a fault are ignored ones: they are no example of words without an entity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luthier.data.reading.lines import ReadOptions, decoded_lines
from luthier.data.reading.readers import parse_json
from luthier.data.sources.base import FileSource
from luthier.data.table import place, shorten
from luthier.errors import DataError
from luthier.extraction.checking import Findings
from luthier.extraction.documents import Document
from luthier.extraction.tokens import Aligner, find_words, joined, tokenise
from luthier.extraction.types import Types


@dataclass(frozen=True)
class ReadingOptions:
    """How annotations are read.

    Attributes:
        tokeniser: `words` or `blanks`, for formats that have no words.
        align: `strict`, or `widen` spans that begin or end inside a word to whole words.
        encoding: of text files.
        max_line_bytes: longest line of them that is believed.
    """

    tokeniser: str = "words"
    align: str = "strict"
    encoding: str = "utf-8"
    max_line_bytes: int = ReadOptions.max_line_bytes

    @property
    def lines(self) -> ReadOptions:
        """How lines and JSON are read."""
        return ReadOptions(encoding=self.encoding, max_line_bytes=self.max_line_bytes)


@dataclass
class Read:
    """What a file held.

    Attributes:
        documents: in file order; not yet checked.
        places: how messages call each.
        types: the known ones, where the file or one beside it says so.
        symmetric: relation types that the file treats as symmetric.
    """

    documents: list[Document]
    places: list[str]
    types: Types | None = None
    symmetric: set[str] = field(default_factory=set)


@dataclass
class Mention:
    """An entity by characters.

    Attributes:
        key: what relations call it.
        type, start, end: end exclusive.
        given: the text that the file says stands there.
        score: of a prediction.
        faulty: whether it was noted already that it can't be used.
    """

    key: Any
    type: str
    start: int
    end: int
    given: str | None = None
    score: float | None = None
    faulty: bool = False


@dataclass
class Link:
    """A relation between mentions, by their keys."""

    type: str
    head: Any
    tail: Any
    score: float | None = None


@dataclass
class CharacterDocument:
    """A document by characters.

    Attributes:
        text: all of it.
        mentions, links: entities and relations.
        id: of the document.
        words: [start, end] characters of every word, where the file says so.
        place: how messages call it, where they say more than its number and line.
        annotated: whether anybody looked at it; where not, nothing is known of its words.
    """

    text: str
    mentions: list[Mention]
    links: list[Link]
    id: Any = None
    words: list[list[int]] | None = None
    place: str | None = None
    annotated: bool = True


# (record, how messages call it, where faults go, where names of symmetric relations go) -> the document, if it is one.
Convert = Callable[[Any, str, Findings, set[str]], CharacterDocument | None]


def read_characters(source: FileSource, options: ReadingOptions, findings: Findings, convert: Convert) -> Read:
    """The documents of a JSON file whose records place entities by characters.

    Args:
        source: a json list or a jsonl file.
        options, findings: as of every format.
        convert: one record; None where it is no document, which it has noted.
    """
    made = Read([], [])
    for where, record in json_records(source, options, findings):
        characters = convert(record, where, findings, made.symmetric)
        if characters is not None:
            place = characters.place or where
            made.places.append(place)
            made.documents.append(to_document(characters, place, options, findings))
    return made


def text_under(record: Any, where: str, findings: Findings, *keys: str) -> str | None:
    """The text of a record under the first of some keys that it has; None, and a finding, where there is none."""
    found = [record[key] for key in keys if key in record] if isinstance(record, dict) else []
    if found and isinstance(found[0], str):
        return str(found[0])
    findings.add("document", where, "is no object with a `text`")
    return None


def to_document(source: CharacterDocument, where: str, options: ReadingOptions, findings: Findings) -> Document:
    """A document by words; what can't be placed is noted and left out."""
    words = source.words if source.words is not None else tokenise(source.text, options.tokeniser)
    text = source.text
    made: Document = {"tokens": [text[a:b] for a, b in words], "entities": [], "relations": []}
    if source.id is not None:
        made["id"] = source.id
    made |= {"text": text, "offsets": words}
    ignored = [] if source.annotated else [[0, len(words)]]
    aligner, placed = Aligner(text, words), dict[Any, int | None]()
    for mention in _by_characters(source.mentions, text, where, findings):
        key = _hashable(mention.key)
        if key in placed:
            findings.add("unreadable", where, f"two entities are called {shorten(key, 30)}")
            continue
        entity = None if mention.faulty else _aligned(mention, text, aligner, where, options, findings)
        placed[key] = None if entity is None else len(made["entities"])
        if entity is not None:
            made["entities"].append(entity)
        elif touched := aligner.words(mention.start, mention.end):
            ignored.append([touched.start, touched.end])
    if ignored:
        made["ignore"] = ignored
    for link in source.links:
        keys = [_hashable(key) for key in (link.head, link.tail)]
        ends = [placed.get(key) for key in keys]
        if None in ends:
            gone = keys[ends.index(None)]
            reason = "is faulty" if gone in placed else "is not there"
            findings.add("missing_entity", where, f"relation {shorten(link.type, 30)}: entity {shorten(gone)} {reason}")
            continue
        relation = {"type": link.type, "head": ends[0], "tail": ends[1]}
        made["relations"].append(relation if link.score is None else relation | {"score": link.score})
    return made


def _hashable(key: Any) -> Any:
    """What a file calls an entity; a list or an object by its text."""
    return repr(key) if isinstance(key, list | tuple | dict) else key


def key_of(record: dict[str, Any], number: int) -> Any:
    """What a file calls an entity: its `id`, or its place in the list where it has none."""
    return number if record.get("id") is None else record["id"]


def _aligned(
    mention: Mention, text: str, aligner: Aligner, where: str, options: ReadingOptions, findings: Findings
) -> dict[str, Any] | None:
    told = (
        f"entity {shorten(mention.key, 30)} ({shorten(mention.type, 30)}, characters {mention.start} to {mention.end})"
    )
    found = aligner.words(mention.start, mention.end)
    if found is None:
        findings.add("offsets", where, f"{told} holds no word of the {len(text)} characters")
        return None
    there = text[mention.start : mention.end]
    if isinstance(mention.given, str) and mention.given.split() != there.split():
        findings.add(
            "text_differs", where, f"{told} is {shorten(mention.given, 40)}, but the text has {shorten(there, 40)}"
        )
        return None
    if not found.exact:
        if options.align != "widen":
            findings.add("misaligned", where, f"{told}, {shorten(there, 40)}, begins or ends inside a word")
            return None
        findings.add("widened", where, f"{told}, {shorten(there, 40)}, was widened to whole words")
    entity = {"type": mention.type, "start": found.start, "end": found.end}
    return entity if mention.score is None else entity | {"score": mention.score}


def _by_characters(mentions: list[Mention], text: str, where: str, findings: Findings) -> list[Mention]:
    """The mentions of a text, of which a tool may have counted UTF-16 units, as JavaScript does. It did so of all or of
    none: where some have the text that the file gives for them only by units, and none only by characters, the offsets
    of all are changed to characters. Where an end is behind the last character and within the units, what is counted
    is not known without the text of an entity, and none of these is believed."""
    if text.isascii():
        return mentions
    places, units = dict[int, int](), 0
    for number, character in enumerate(text):
        places[units] = number
        units += 2 if ord(character) > 0xFFFF else 1
    places[units] = len(text)
    if units == len(text):
        return mentions
    converted = [_from_units(mention, text, places) for mention in mentions]
    by_characters = [text[one.start : one.end] == one.given for one in mentions]
    given = [isinstance(one.given, str) for one in mentions]
    of_each = list(zip(mentions, converted, by_characters, given, strict=True))
    only_characters = any(new is None and fits for _, new, fits, _ in of_each)
    only_units = any(told and new is not None and not fits for _, new, fits, told in of_each)
    behind = any(not told and len(text) < one.end <= units for one, _, _, told in of_each)
    if not only_units:
        return mentions if only_characters or not behind else _doubtful(mentions, len(text), where, findings)
    made = []
    for one, new, fits, told in of_each:
        stays = (new is None or fits or not told) if only_characters else (new is None and told)
        made.append(one if stays else new or replace(one, start=-1))  # half a character is no place
    return made


def _doubtful(mentions: list[Mention], characters: int, where: str, findings: Findings) -> list[Mention]:
    """The mentions, those without a text noted as faulty."""
    made = []
    for one in mentions:
        if not isinstance(one.given, str):
            told = f"entity {shorten(one.key, 30)} ({shorten(one.type, 30)}) is at {one.start} to {one.end}"
            why = f"the offsets of this text, of {characters} characters, may count UTF-16 units"
            findings.add("offsets", where, f"{told}: {why}; count characters, or give the text of each entity")
            one = replace(one, faulty=True)
        made.append(one)
    return made


def _from_units(mention: Mention, text: str, places: dict[int, int]) -> Mention | None:
    """The mention with its UTF-16 units as characters; None where they don't give its text.

    Args:
        text: of the document.
        places: unit at which a character begins -> place of the character.
    """
    start, end = places.get(mention.start, -1), places.get(mention.end, -1)
    if not 0 <= start < end or (isinstance(mention.given, str) and text[start:end] != mention.given):
        return None
    return replace(mention, start=start, end=end)


def to_characters(document: Document) -> CharacterDocument:
    """A document by characters; one without a text has its words parted by blanks. Keys are indices of entities."""
    text, words = document.get("text"), document.get("offsets")
    if text is not None and not words:
        words = find_words(text, document["tokens"])
    if text is None or not words:
        text, words = joined(document["tokens"])
    mentions = []
    for key, entity in enumerate(document["entities"]):
        start, end = words[entity["start"]][0], words[entity["end"] - 1][1]
        mentions.append(Mention(key, entity["type"], start, end, text[start:end], entity.get("score")))
    links = [Link(one["type"], one["head"], one["tail"], one.get("score")) for one in document["relations"]]
    return CharacterDocument(text, mentions, links, document.get("id"), [list(one) for one in words])


def json_records(source: FileSource, options: ReadingOptions, findings: Findings) -> Iterator[tuple[str, Any]]:
    """Place and value of every record of a json list or a jsonl file; lines that are no JSON are noted.

    Raises:
        DataError: the file as a whole can't be read, or its JSON is no list.
    """
    read = options.lines
    if source.format != "jsonl":
        value = parse_json(source, read)
        if not isinstance(value, list):
            raise DataError(
                f"holds {shorten(value)}, and not a list of documents",
                where=source.name,
                fix="write a list of objects, or name a file with one object a line .jsonl",
            )
        yield from ((f"document {number}", one) for number, one in enumerate(value, 1))
        return
    with source.open() as stream:
        number = 0
        for line, text in decoded_lines(stream, source.name, read):
            if not text.strip():
                continue
            number += 1
            where = place(number, line).replace("row", "document")
            try:
                yield where, json.loads(text)
            except (ValueError, RecursionError) as error:
                findings.add("document", where, f"is not valid JSON: {error}")


def json_bytes(values: Sequence[Any], *, lines: bool) -> bytes:
    """Records as a json list with one of them a line, or as jsonl; texts are written as they are."""
    rows = [json.dumps(one, ensure_ascii=False) for one in values]
    text = "".join(f"{row}\n" for row in rows) if lines else "[" + ",\n ".join(rows) + "]\n"
    # A lone surrogate becomes an escape of JSON.
    return text.encode(errors="backslashreplace")


def items_of(record: dict[str, Any], key: str, where: str, findings: Findings) -> list[Any]:
    """A list in a record; none, and a finding, where there is something else."""
    value = record.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        findings.add("unreadable", where, f"`{key}` is no list")
        return []
    return value


def whole(value: Any) -> int:
    """A whole number as a file has it; -1, which is no place, where it is none."""
    return value if type(value) is int else -1


def text_of(source: FileSource, encoding: str) -> str:
    """All characters of a text file, line breaks and a byte order mark as they are.

    Raises:
        DataError: it is not in the encoding.
    """
    try:
        return source.read().decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise DataError(f"is not text in {encoding}: {error}", where=source.name, fix="save it as UTF-8") from error


def file_at(path: Path) -> FileSource:
    """A file on this machine."""
    return FileSource(path, None, str(path))
