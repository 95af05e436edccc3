"""Sets on the Hugging Face Hub, through the `datasets` library. No code of a data set is ever run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from luthier.data.sources.base import HubSource
from luthier.data.sources.origins import HUB_SPLIT_NAMES, Origin
from luthier.data.table import Table, listing
from luthier.errors import DataError

CONVERTED_REVISION = "refs/convert/parquet"
_COMMIT = re.compile(r"@([0-9a-f]{40})/")
_log = logging.getLogger(__name__)


def read_hub_split(origin: Origin) -> Table | None:
    """All rows of a split on the Hub, with class ids as names. None where an optional split does not exist.

    Raises:
        DataError: the set, its configuration or its split is not found, can't be reached, or needs code to be loaded.
    """
    split = load_hub_split(origin, streaming=False)
    if split is None:
        return None
    return replace(table_of(split, origin.name), about=told_of_hub(origin, split))


def told_of_hub(origin: Origin, split: Any = None) -> str:
    """Which set on the Hub a split is of, in words: its id, configuration, split and revision.

    Args:
        split: as `datasets` gives it; it knows the commit that was read, where no other revision was asked for.
    """
    hub = origin.hub
    if hub is None:
        return ""
    commits = {found[1] for url in _urls(split) if (found := _COMMIT.search(url))}
    revision = next(iter(commits)) if len(commits) == 1 else hub.revision
    parts = [f"configuration {hub.config}" if hub.config else "", f"split {origin.split}" if origin.split else ""]
    parts.append(f"revision {revision}" if revision else "no revision is pinned")
    return ", ".join([f"{hub.id} on the Hub", *filter(None, parts)])


def _urls(split: Any) -> Iterator[str]:
    sums = getattr(getattr(split, "info", None), "download_checksums", None)
    yield from map(str, sums if isinstance(sums, Mapping) else ())


def load_hub_split(origin: Origin, *, streaming: bool) -> Any:
    """The split as `datasets` gives it: a Dataset, or an IterableDataset when streaming; None as above."""
    hub = origin.hub
    if hub is None or origin.split is None:
        return None
    splits = _load(hub, streaming=streaming)
    native = origin.known.splits.get(origin.split) if origin.known else None
    wanted = (native,) if isinstance(native, str) else HUB_SPLIT_NAMES.get(origin.split, (origin.split,))
    for name in wanted:
        if name in splits:
            return splits[name]
    if origin.optional:
        return None
    raise DataError(
        f"the set has no split {origin.split!r}",
        where=hub.name,
        fix=f"it has: {listing(splits)}; pick one with `#split`",
    )


def table_of(split: Any, name: str) -> Table:
    """A `datasets` split as a table. Class ids become their names; the names are the table's labels."""
    names = class_names(split.features)
    columns = {
        column: [_named(value, names[column]) for value in split[column][:]] if column in names else split[column][:]
        for column in split.column_names
    }
    return Table(name, columns, labels=next(iter(names.values()), None))


def class_names(features: Any) -> dict[str, list[str]]:
    """Class names of every column that holds class ids, or lists of them."""
    found = {}
    for column, feature in (features or {}).items():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            found[column] = list(names)
    return found


def named_record(record: Mapping[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """A row with its class ids as names."""
    return {key: _named(value, names[key]) if key in names else value for key, value in record.items()}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if value is None or not 0 <= value < len(names):
        return None
    return names[value]


def _load(hub: HubSource, *, streaming: bool) -> Any:
    import datasets

    def load(revision: str | None) -> Any:
        return datasets.load_dataset(hub.id, hub.config, revision=revision, streaming=streaming)

    try:
        try:
            return load(hub.revision)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error) or hub.revision is not None:
                raise
            _log.info("%s is built by a script, which is not run: reading the Hub's own parquet copy", hub.id)
            return load(CONVERTED_REVISION)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"the data set {hub.id!r} can't be loaded from the Hub: {type(error).__name__}: {_first_line(error)}",
            where=hub.name,
            fix="check id, configuration (hub:ID:config) and connection; sets with their own code are refused",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
