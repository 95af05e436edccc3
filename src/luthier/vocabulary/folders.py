"""Folders with one file or one folder a language."""

from __future__ import annotations

from pathlib import Path

from luthier.data.sources.base import FORMATS
from luthier.errors import DataError
from luthier.storage.nearby import did_you_mean


def folder_sources(folder: str | Path) -> dict[str, list[str]]:
    """Language -> its files: every file of a folder, and every folder in it, is one language.

    Raises:
        DataError: there is no such folder, or it holds no text.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(
            "there is no such folder", where=str(folder), fix=did_you_mean(place) or "name one with a file a language"
        )
    found: dict[str, list[str]] = {}
    for entry in sorted(place.iterdir()):
        if entry.name.startswith("."):
            continue
        files = [entry] if entry.is_file() else sorted(path for path in entry.rglob("*") if path.is_file())
        known = [str(path) for path in files if _is_text(path)]
        if known:
            found.setdefault(entry.name.partition(".")[0], []).extend(known)
    if not found:
        raise DataError("holds no text", where=str(folder), fix="put one file a language into it, such as de.txt")
    return found


def _is_text(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return FORMATS.get(Path(name).suffix) in ("txt", "jsonl", "csv", "tsv", "parquet")
