"""Which split comes from where: the plan that loading and fingerprinting follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from luthier.data.catalogue.known_set import KnownSet
from luthier.data.catalogue.lookup import is_evaluation_only, known_hub_set, known_set
from luthier.data.settings import SPLITS, DataSettings, FileFormat
from luthier.data.sources.base import (
    FileSource,
    FolderSource,
    HubSource,
    SetSource,
    annotated_folder,
    data_folder,
    inside,
    resolve,
)
from luthier.errors import DataError, nearest

HUB_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
# Settings of how the user's files are read: the formats that each is for, and what files of these are called.
_TABLES = (("csv", "tsv"), "a csv or tsv file")
_TEXT = (tuple(name for name in get_args(FileFormat) if name != "parquet"), "a file of text")
_READ_BY = {
    "delimiter": _TABLES,
    "column_names": _TABLES,
    "encoding": _TEXT,
    "max_line_megabytes": _TEXT,
    "format": (get_args(FileFormat), "a file"),
}


@dataclass(frozen=True)
class Origin:
    """Where the rows of one split come from.

    Attributes:
        name: as the user wrote it, for messages.
        file: a single file, or None.
        folder: files that are read together, or None.
        hub: a set on the Hub, or None; also for known sets that live there.
        known: the known set, or None.
        split: the split of a set, as the set calls it.
        cut: the part of that split that is meant, where there is no official one.
        optional: whether the origin was derived from `source`, which need not have every split.
    """

    name: str
    file: FileSource | None = None
    folder: FolderSource | None = None
    hub: HubSource | None = None
    known: KnownSet | None = None
    split: str | None = None
    cut: str | None = None
    optional: bool = False

    @property
    def files(self) -> list[FileSource]:
        """Every file that is read, in order."""
        if self.file is not None:
            return [self.file]
        if self.folder is not None:
            return self.folder.files
        if self.known is None or self.known.folder is None or self.split is None:
            return []
        layout = self.known.splits[self.split]
        folder = data_folder(self.name) / self.known.folder
        paths = () if isinstance(layout, str) else layout.paths
        return [
            _existing(FileSource(inside(folder, path, self.name), None, self._file_name(path, paths))) for path in paths
        ]

    def _file_name(self, path: str, paths: tuple[str, ...]) -> str:
        return f"data:{self.known.folder}/{path}" if self.known else path


def plan(settings: DataSettings) -> dict[str, Origin]:
    """Origin of every split that the settings name.

    Raises:
        DataError: a source names nothing, a set has no such split, or a set for evaluation is to be trained on.
    """
    origins, wrong = sought(settings)
    for error in wrong.values():
        raise error
    return origins


def sought(settings: DataSettings) -> tuple[dict[str, Origin], dict[str, DataError]]:
    """Origin of every split that can be found, and what is wrong with the others, by the key that names them."""
    origins: dict[str, Origin] = {}
    wrong: dict[str, DataError] = {}
    if settings.source is not None:
        try:
            origins |= _splits_of_one_source(settings.source)
        except DataError as error:
            wrong["source"] = error
    for split in SPLITS:
        source = getattr(settings, split)
        if source is not None:
            origins.pop(split, None)
            try:
                origins[split] = _origin(source, split)
            except DataError as error:
                wrong[split] = error
    seen: dict[object, str] = {}
    for split in SPLITS:
        try:
            if split in origins:
                _refuse_misuse(origins[split], split, seen)
        except DataError as error:
            wrong.setdefault(key_of(settings, split), error)
    return {split: origins[split] for split in SPLITS if split in origins}, wrong


def without_effect(settings: DataSettings, origins: Mapping[str, Origin]) -> dict[str, DataError]:
    """What is wrong with the settings of how files are read, by their names, where no split is read by them."""
    read = {_format_read(origin, settings) for origin in origins.values()}
    where = ", ".join(dict.fromkeys(origin.name for origin in origins.values()))
    wrong = {}
    for name in settings.changed(*_READ_BY):
        formats, told = _READ_BY[name]
        if "" not in read and read.isdisjoint(formats):
            wrong[name] = DataError(f"`{name}` has no effect: no split is {told}", where=where, fix="leave it out")
    return wrong


def _format_read(origin: Origin, settings: DataSettings) -> str | None:
    """The format that a user's file is read as, empty where it is not told; None for a set."""
    if origin.folder is not None:
        return "txt"
    return None if origin.file is None else settings.format or origin.file.format or ""


def key_of(settings: DataSettings, split: str) -> str:
    """The key of the data block that names where a split comes from."""
    return split if getattr(settings, split) is not None else "source"


def _refuse_misuse(origin: Origin, split: str, seen: dict[object, str]) -> None:
    if split == "train":
        _refuse_training_on_evaluation_data(origin)
    _refuse_same_rows(origin, split, seen)


def _existing(source: FileSource) -> FileSource:
    if not source.path.is_file():
        raise DataError("the set's folder has no such file", where=source.name, fix="is the copy of the set whole?")
    return source


def _splits_of_one_source(source: str) -> dict[str, Origin]:
    folder = annotated_folder(source)
    resolved = folder or resolve(source)
    if isinstance(resolved, FileSource | FolderSource):
        kind = "folder of annotated texts" if folder else "single file"
        raise DataError(
            f"is a {kind}, with no splits of its own", where=source, fix="name it as `train`, not as `source`"
        )
    if resolved.split is not None:
        raise DataError(
            "`source` brings all splits of a set", where=source, fix="leave `#split` out, or name it as `train`"
        )
    found = {}
    for split in SPLITS:
        origin = _origin(source, split, optional=True)
        if origin.known is None or origin.split is not None:
            found[split] = origin
    if not found:
        raise DataError("the set has none of the usual splits", where=source)
    return found


def _origin(source: str, split: str, *, optional: bool = False) -> Origin:
    folder = annotated_folder(source)
    if folder is not None:
        return Origin(source, folder=folder)
    resolved = resolve(source)
    if isinstance(resolved, FileSource):
        return Origin(source, file=resolved)
    known = (
        known_set(resolved.set, source)
        if isinstance(resolved, SetSource)
        else known_hub_set(resolved.id, resolved.config)
    )
    wanted = resolved.split or split
    hub = resolved if isinstance(resolved, HubSource) else _hub_of(known, source)
    origin = Origin(source, hub=hub, known=known, split=wanted, optional=optional)
    if known is None:
        return origin
    return _within_known_set(origin, known, wanted)


def _hub_of(known: KnownSet | None, source: str) -> HubSource | None:
    if known is None or known.hub is None:
        return None
    return HubSource(known.hub[0], known.hub[1], None, None, source)


def _within_known_set(origin: Origin, known: KnownSet, wanted: str) -> Origin:
    if wanted in known.splits:
        return origin
    if known.cut and wanted in known.cut:
        return replace(origin, split="all", cut=wanted)
    if origin.optional:
        return replace(origin, split=None)
    names = [*known.splits, *(known.cut or {})]
    guess = nearest(wanted, names)
    hint = f"did you mean `#{guess}`? " if guess else ""
    raise DataError(
        f"the set has no split {wanted!r}",
        where=origin.name,
        fix=f"{hint}it has: {', '.join(names)}; pick one with `#split`",
    )


def _refuse_same_rows(origin: Origin, split: str, seen: dict[object, str]) -> None:
    """Note which rows a split has, and refuse those of another split."""
    rows = _identity(origin)
    if rows in seen:
        raise DataError(
            f"`{seen[rows]}` and `{split}` are the same rows",
            where=origin.name,
            fix="name other examples for one of them, or another split of the set with `#split`",
        )
    seen[rows] = split


def _identity(origin: Origin) -> object:
    if origin.file is not None:
        return origin.file.path.resolve(), origin.file.member
    if origin.folder is not None:
        return origin.folder.path.resolve(), None
    if origin.hub is not None:
        return origin.hub.id, origin.hub.config, origin.hub.revision, origin.split
    if origin.known is not None and origin.split is not None and origin.cut is None:
        layout = origin.known.splits[origin.split]
        files = [file.path.resolve() for file in origin.files]
        if not isinstance(layout, str) and layout.argument is None and len(files) == 1:
            return files[0], None
    return origin.known.name if origin.known else origin.name, origin.split, origin.cut


def _refuse_training_on_evaluation_data(origin: Origin) -> None:
    refused = origin.known is not None and origin.known.evaluation_only
    if origin.file is not None and origin.name.startswith("data:"):
        refused = is_evaluation_only(origin.name.removeprefix("data:").partition("/")[0])
    if refused:
        raise DataError(
            "this set is for evaluation, and must not be trained on",
            where=origin.name,
            fix="name it as `test` or `validation`, and train on another set",
        )
