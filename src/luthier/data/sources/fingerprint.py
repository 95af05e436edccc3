"""One hash that changes when the data or its settings change, without loading the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial

from luthier.data.schemas import SCHEMAS
from luthier.data.settings import DataSettings
from luthier.data.sources.base import FileSource, digest
from luthier.data.sources.origins import Origin, plan
from luthier.data.table import Table
from luthier.storage.keys import digest_of
from luthier.storage.one_version import check_unchanged, first_sight


def source_fingerprint(settings: DataSettings) -> str:
    """sha256, in hex, over the settings and the bytes of every file they name; in a run, as they were at first sight.

    A set on the Hub counts by its id, configuration and revision: pin the revision where that matters.

    Raises:
        DataError: a source can't be found or read.
    """
    parts: dict[str, object] = {"settings": settings.model_dump(mode="json")}
    for split, origin in plan(settings).items():
        if origin.hub is not None:
            parts[split] = [origin.hub.id, origin.hub.config, origin.hub.revision, origin.split]
        else:
            files = [*origin.files, *_beside(origin)]
            digests = [first_sight(_name(file), partial(digest, file)) for file in files]
            parts[split] = [*digests, origin.split, origin.cut]
    return digest_of(parts)


def _beside(origin: Origin) -> list[FileSource]:
    """Files that say more of the rows of a user's file."""
    file = origin.file
    return [] if file is None else [one for schema in SCHEMAS.values() for one in schema.files_beside(file)]


def check_files_unchanged(origins: Iterable[Origin]) -> None:
    """To be called when the files of these origins were read.

    Raises:
        WorkspaceError: one is no longer what it was when the run first looked at it.
    """
    for origin in origins:
        for file in origin.files if origin.hub is None else ():
            check_unchanged(_name(file), partial(digest, file), file.name)


def check_rows_unchanged(origin: Origin, table: Table) -> None:
    """Compare the rows of a set on the Hub with what they were when the run first read them.

    Raises:
        WorkspaceError: they are others.
    """
    hub = origin.hub
    if hub is not None:
        name = f"hub {hub.id} {hub.config} {hub.revision} {origin.split}"
        check_unchanged(name, partial(_rows_digest, table), origin.name)


def _rows_digest(table: Table) -> str:
    total = hashlib.sha256()
    for column, values in sorted(table.columns.items()):
        total.update(f"{column} {len(values)}\n".encode())
        for value in values:
            total.update(repr(value).encode(errors="surrogatepass"))
    return total.hexdigest()


def _name(file: FileSource) -> str:
    return f"data {file.path.resolve()}!{file.member or ''}"
