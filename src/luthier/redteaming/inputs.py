"""How the lists of a `redteam` stage are read, and fingerprints of all that it reads beside its models."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from luthier.data.guessing.sample import read_sample
from luthier.data.reading.readers import ReadOptions, read_table
from luthier.data.sources.base import FileSource, digest, resolve
from luthier.data.sources.fingerprint import source_fingerprint
from luthier.data.table import Table
from luthier.errors import DataError
from luthier.models.card import read_card
from luthier.models.references import fingerprint
from luthier.models.references import resolve as resolve_model
from luthier.storage.keys import digest_of
from luthier.storage.one_version import first_sight

if TYPE_CHECKING:
    from luthier.models.settings import ModelSettings
    from luthier.redteaming.settings import MartSettings


def file_of(name: str) -> FileSource:
    """The file that a recipe names.

    Raises:
        DataError: it is not there, or is no single file.
    """
    source = resolve(name)
    if not isinstance(source, FileSource):
        raise DataError("a single file is needed", where=name, fix="name a file, or `package:NAME/path`")
    return source


def read_list(source: FileSource, format: str | None = None) -> Table:  # noqa: A002
    """A table of people's, whose encoding, and separator of fields, are told by its first lines: a list has no settings
    for them.

    Raises:
        DataError: it can't be read.
    """
    keys = {} if source.format in ("json", "parquet") else read_sample(source).keys
    delimiter = keys.get("delimiter") if (format or source.format) in ("csv", "tsv") else None
    return read_table(source, ReadOptions(format=format, encoding=keys.get("encoding", "utf-8"), delimiter=delimiter))


def fingerprints(stage: MartSettings) -> dict[str, str]:
    """What is read -> its digest, in a run as it was at first sight."""
    found = {name: _file_digest(one.file) for name, one in stage.prompt_sources().items()}
    found |= {f"labelled {name}": _file_digest(name) for name in stage.labelled_files()}
    if stage.labels is not None:
        found["labels"] = _file_digest(stage.labels)
    for name, data in (("instructions", stage.instructions), ("helpful", stage.evaluation.helpful)):
        if data is not None:
            found[name] = source_fingerprint(data)
    for judge in stage.every_judge():
        model = getattr(judge, "model", None)
        if model is not None and not model.reference.startswith("stages."):
            found[f"judge {model.reference}"] = judge_fingerprint(model)
    if stage.evaluation.embedder is not None:
        found["embedder"] = fingerprint(resolve_model(stage.evaluation.embedder))
    for side in (stage.adversary, stage.target):
        found |= side.method.file_fingerprints()
    return found


def judge_fingerprint(model: ModelSettings) -> str:
    """Digest of a judge's model and, where Luthier saved it, of what its card tells of the form that it is asked in.

    Raises:
        ModelError: there is no such model, or its card can't be read.
    """
    source = resolve_model(model)
    content = fingerprint(source)
    if source.kind != "artifact" or source.path is None:
        return content
    card = read_card(source.path)
    return digest_of([content, card.schema, card.max_length, card.reserved_tokens])


def _file_digest(name: str) -> str:
    source = file_of(name)
    return first_sight(f"data {source.path.resolve()}!{source.member or ''}", partial(digest, source))
