"""Documents of a corpus, one after another, from any place in it."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from luthier.data.reading.readers import ReadOptions, Row, iterate_rows
from luthier.data.rows.canonical import BadCellError, MissingColumnsError, whole_characters
from luthier.data.sources.base import FileSource, HubSource, resolve
from luthier.data.sources.hub import load_hub_split
from luthier.data.sources.origins import Origin
from luthier.data.table import Problems, place, shorten
from luthier.errors import DataError, RecipeError, nearest
from luthier.language_modeling.corpus_settings import CorpusSettings
from luthier.language_modeling.lines import lines_from
from luthier.storage.hashing import remembered_sha256
from luthier.storage.keys import digest_of
from luthier.storage.one_version import check_unchanged, first_sight
from luthier.storage.paths import is_file, user_path

Place = Mapping[str, Any]
START: Place = {"source": 0}
_FORMATS = ("txt", "jsonl", "csv", "tsv", "parquet")
_BUCKETS = 1 << 32


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        text: not empty.
        after: the place behind it, to go on from.
    """

    text: str
    after: Place


class Corpus:
    """The documents that some sources hold.

    Args:
        names: sources as a recipe writes them.
        settings: how they are read.

    Raises:
        DataError: one names nothing, or is of a format that can't be read document by document.
    """

    def __init__(self, names: Iterable[str], settings: CorpusSettings) -> None:
        self.settings = settings
        self.sources: list[FileSource | HubSource] = [one for name in names for one in _sources(name)]
        for source in self.sources:
            if isinstance(source, FileSource):
                _format_of(source, settings)

    def documents(self, start: Place = START) -> Iterator[Document]:
        """All documents from a place on; texts without a word are left out.

        Raises:
            DataError: a source can't be read, or a row has no text.
        """
        for number in range(int(start["source"]), len(self.sources)):
            here = start if number == start["source"] else {}
            for text, after in self._of_source(self.sources[number], here):
                if text.strip():
                    yield Document(text, {"source": number, **after})

    def has_text(self, source: FileSource | HubSource) -> bool:
        """Whether one of the sources has a document.

        Raises:
            DataError: its beginning can't be read, or has no such field.
        """
        return any(text.strip() for text, _ in self._of_source(source, {}))

    def fingerprint(self) -> str:
        """One hash over what the sources hold, and the formats that their names tell; sets on the Hub count by id,
        configuration and revision."""
        parts: list[Any] = []
        for source in self.sources:
            if isinstance(source, HubSource):
                parts.append([source.id, source.config, source.revision, source.split])
            else:
                content = first_sight(_seen_as(source), partial(_digest, source))
                parts.append([content, source.member, _format_of(source, self.settings)])
        return digest_of({"sources": parts})

    def bytes_here(self) -> int | None:
        """Bytes of all files; None where a source is not on this machine."""
        files = [one for one in self.sources if isinstance(one, FileSource)]
        return sum(one.path.stat().st_size for one in files) if len(files) == len(self.sources) else None

    def check_unchanged(self) -> None:
        """To be called when the sources were read.

        Raises:
            WorkspaceError: one is no longer what it was when the run first looked at it.
        """
        for source in self.sources:
            if isinstance(source, FileSource):
                check_unchanged(_seen_as(source), partial(_digest, source), source.name)

    def _of_source(self, source: FileSource | HubSource, start: Place) -> Iterator[tuple[str, Place]]:
        if isinstance(source, HubSource):
            return self._of_hub(source, start)
        kind = _format_of(source, self.settings)
        if not source.path.stat().st_size:
            return iter(())  # one of a pattern
        if kind == "parquet":
            return self._of_parquet(source, start)
        return self._of_table(source, start) if kind in ("csv", "tsv") else self._of_lines(source, kind, start)

    # -- files -----------------------------------------------------------------------------------------------

    def _of_lines(self, source: FileSource, kind: str, start: Place) -> Iterator[tuple[str, Place]]:
        lines = lines_from(source, self._options(kind), int(start.get("offset", 0)), int(start.get("line", 0)))
        if kind == "jsonl":
            for number, text, offset in lines:
                if text.strip():
                    yield self._field(_object(text, number, source.name), number, source.name), _at(offset, number)
        elif self.settings.document == "line":
            for number, text, offset in lines:
                yield text, _at(offset, number)
        else:
            yield from _joined(lines, whole=self.settings.document == "file")

    def _of_table(self, source: FileSource, start: Place) -> Iterator[tuple[str, Place]]:
        problems = Problems(source.name)
        rows: Iterator[Row] = iterate_rows(source, self._options(_format_of(source, self.settings)), problems)
        for row in itertools.islice(rows, int(start.get("row", 0)), None):
            problems.raise_if_any("correct or remove this row")
            yield self._field(row.cells, row.number, source.name), {"row": row.number}
        problems.raise_if_any("correct or remove this row")

    def _of_parquet(self, source: FileSource, start: Place) -> Iterator[tuple[str, Place]]:
        import pyarrow
        import pyarrow.parquet

        done = int(start.get("row", 0))
        try:
            with source.open() as stream:
                file = pyarrow.parquet.ParquetFile(stream)
                if self.settings.text not in file.schema_arrow.names:
                    raise self._no_field(file.schema_arrow.names, source.name)
                number = 0
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    if number + count <= done:
                        number += count
                        continue
                    for batch in file.iter_batches(1024, row_groups=[group], columns=[self.settings.text]):
                        for value in batch.column(0).to_pylist():
                            number += 1
                            if number > done:
                                row = {self.settings.text: value}
                                yield self._field(row, number, source.name), {"row": number}
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            raise DataError(
                f"is not a whole parquet file: {error}", where=source.name, fix="copy or write the file again"
            ) from error

    def _options(self, kind: str) -> ReadOptions:
        settings = self.settings
        return ReadOptions(
            format=kind, encoding=settings.encoding, max_line_bytes=int(settings.max_line_megabytes * 1e6)
        )

    # -- the Hub ---------------------------------------------------------------------------------------------

    def _of_hub(self, source: HubSource, start: Place) -> Iterator[tuple[str, Place]]:
        stream = load_hub_split(Origin(source.name, hub=source, split=source.split or "train"), streaming=True)
        done = int(start.get("row", 0))
        if "state" in start:
            stream.load_state_dict(dict(start["state"]))
        for number, row in enumerate(stream, start=done + 1):
            yield self._field(row, number, source.name), {"row": number, "state": stream.state_dict()}

    # -- rows ------------------------------------------------------------------------------------------------

    def _field(self, row: Mapping[str, Any], number: int, name: str) -> str:
        if self.settings.text not in row:
            raise self._no_field(list(row), name, place(number))
        value = row[self.settings.text]
        if value is None:
            return ""
        if not isinstance(value, str):
            raise MissingColumnsError(
                f"{place(number)}: `{self.settings.text}` is {shorten(value)}, not text",
                where=name,
                fix="name the field that holds the text with `text`, or correct this row",
                present=_told_fields(row),
            )
        try:
            return whole_characters(value)
        except BadCellError as error:
            raise DataError(
                f"{place(number)}: `{self.settings.text}` {error}", where=name, fix="correct or remove this row"
            ) from None

    def _no_field(self, names: list[str], name: str, where: str = "") -> DataError:
        guess = nearest(self.settings.text, names)
        hint = f"did you mean {guess!r}? " if guess else ""
        return MissingColumnsError(
            f"{where + ': ' if where else ''}there is no field `{self.settings.text}`",
            where=name,
            fix=f"{hint}set `text` to the one that holds it: {', '.join(names[:12])}",
            present=_told_fields(names),
        )


def is_held_out(text: str, share: float) -> bool:
    """Whether a document is among the held-out ones: by a hash of its text, so that all its copies are."""
    if not share:
        return False
    number = int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).digest(), "big")
    return number < share * _BUCKETS


def check_corpora(*texts: CorpusSettings) -> None:
    """Look at the first document of each file, and that none is trained on that another, or the same, holds out.

    Raises:
        DataError: a source can't be read, has no text, or is on both sides.
        RecipeError: a setting is for other formats.
    """
    trained: list[FileSource | HubSource] = []
    held: set[tuple[Any, ...]] = set()
    for text in texts:
        train, validation = ({name: Corpus([name], text) for name in names} for names in (text.train, text.validation))
        _check_formats(text, [*_sources_of(train), *_sources_of(validation)])
        for name, corpus in (*train.items(), *validation.items()):
            filled = [corpus.has_text(source) for source in corpus.sources]  # each is opened
            if not any(filled):
                raise DataError("there is no text in it", where=name, fix="is it the right file?")
        trained += _sources_of(train)
        held.update(map(_identity, _sources_of(validation)))
    for source in trained:
        if _identity(source) in held:
            raise DataError(
                "it is trained on, and held out to score the model as well",
                where=source.name,
                fix="leave it out of `validation`, or write `train` so that it does not name it",
            )


def _sources_of(corpora: Mapping[str, Corpus]) -> list[FileSource | HubSource]:
    return [source for corpus in corpora.values() for source in corpus.sources]


def _check_formats(text: CorpusSettings, sources: Sequence[FileSource | HubSource]) -> None:
    kinds = {_format_of(source, text) if isinstance(source, FileSource) else "hub" for source in sources}
    for name, fits, which in (("document", "txt" in kinds, "txt files"), ("text", kinds != {"txt"}, "other files")):
        if not fits and getattr(text, name) != CorpusSettings.model_fields[name].default:
            raise RecipeError(
                f"`{name}` has no effect on {', '.join(sorted(kinds))}: it is for {which}",
                where=", ".join(text.train),
                fix="leave it out",
            )


def _identity(source: FileSource | HubSource) -> tuple[Any, ...]:
    if isinstance(source, FileSource):
        return source.path.resolve(), source.member
    return source.id, source.config, source.revision, source.split or "train"


def _sources(name: str) -> list[FileSource | HubSource]:
    pattern = set(name) & set("*?[") and not name.startswith(("package:", "hub:", "data:"))
    if pattern and not is_file(user_path(name)):
        paths = sorted(path for path in glob.glob(str(user_path(name)), recursive=True) if is_file(path))
        if paths:
            return [one for path in paths for one in _sources(path)]
        if "*" in name:
            raise DataError("there is no such file", where=name, fix="correct the pattern")
    source = resolve(name)
    if isinstance(source, FileSource | HubSource):
        return [source]
    raise DataError(
        "this set is for tasks, and no text to train a language model on", where=name, fix="name a file or a Hub set"
    )


def _told_fields(names: Iterable[str]) -> str:
    return f"the fields are {', '.join(itertools.islice(names, 12))}"


def _format_of(source: FileSource, settings: CorpusSettings) -> str:
    kind = settings.format or source.format
    if kind not in _FORMATS:
        raise DataError(
            f"{kind} files can't be read document by document" if kind else "its name does not tell its format",
            where=source.name,
            fix=f"set `format`, or write it as one of {', '.join(_FORMATS)}",
        )
    return kind


def _object(text: str, number: int, name: str) -> Mapping[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {number} is not valid JSON: {error}", where=name, fix="correct this line") from error
    if not isinstance(record, dict):
        raise DataError(f"line {number} is {shorten(record)}, not an object with named fields", where=name)
    return record


def _joined(lines: Iterator[tuple[int, str, int]], *, whole: bool) -> Iterator[tuple[str, Place]]:
    """Paragraphs, or all lines as one document."""
    held: list[str] = []
    offset = number = 0
    for number, text, offset in lines:
        if whole or text.strip():
            held.append(text)
        elif held:
            yield "\n".join(held), _at(offset, number)
            held = []
    if held:
        yield "\n".join(held), _at(offset, number)


def _at(offset: int, line: int) -> Place:
    return {"offset": offset, "line": line}


def _seen_as(source: FileSource) -> str:
    return f"corpus {source.path.resolve()}"


def _digest(source: FileSource) -> str:
    return remembered_sha256(source.path)
