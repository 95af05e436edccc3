"""Folders with one file or one folder a language."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from luthier.data.sources.base import FileSource, unpacked
from luthier.errors import DataError
from luthier.storage.nearby import did_you_mean

_READ = ("txt", "jsonl", "csv", "tsv", "parquet")


def is_name(name: str) -> bool:
    """Whether a folder can be called like a language."""
    return name.isprintable() and bool(name) and not name.startswith(".") and not set(name) & set("/\\")


def folder_sources(folder: str | Path) -> dict[str, list[str]]:
    """Language -> its files: every file of a folder, named without its endings, and every folder in it, is one.

    Raises:
        DataError: there is no such folder, it holds no text, two of its entries are one language, or a name is none.
    """
    found: dict[str, list[str]] = {}
    entries: dict[str, str] = {}
    for entry, files in _entries(folder):
        known = [path for path in files if _is_text(path)]
        if not known:
            continue
        for path in known:
            if not all(map(is_name, path.relative_to(folder_of(folder)).parts)):
                raise DataError(f"{str(path)!a} has odd characters in its name", where=str(folder), fix="rename it")
        language = entry.name if entry.is_dir() else PurePath(unpacked(entry.name)).stem
        if language in found:
            raise DataError(
                f"{entries[language]} and {entry.name} are both {language}",
                where=str(folder),
                fix=f"leave one of them, or put both into a folder {language}",
            )
        entries[language], found[language] = entry.name, [str(path) for path in known]
    if not found:
        raise DataError("holds no text", where=str(folder), fix="put one file a language into it, such as de.txt")
    return found


def not_read(folder: str | Path) -> list[str]:
    """Names of a folder's entries that have files which are not read, since their names tell no format of text, or
    that have none."""
    return [entry.name for entry, files in _entries(folder) if not (files and all(map(_is_text, files)))]


def folder_of(folder: str | Path) -> Path:
    """The place that a name stands for."""
    return Path(folder).expanduser()


def _entries(folder: str | Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every entry of a folder that is not hidden, with the files in it."""
    place = folder_of(folder)
    if not place.is_dir():
        raise DataError(
            "there is no such folder", where=str(folder), fix=did_you_mean(place) or "name one with a file a language"
        )
    for entry in sorted(place.iterdir()):
        if not entry.name.startswith("."):
            below = sorted(_files_in(entry)) if entry.is_dir() else [entry]
            yield entry, [path for path in below if path.is_file() and not _is_hidden(path.relative_to(place))]


def _files_in(folder: Path) -> Iterator[Path]:
    """Every file below a folder, also where links lead to; each folder once, so that a link upwards ends."""
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(here) / name for name in files)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_text(path: Path) -> bool:
    return FileSource(path, None, str(path)).format in _READ
