"""Packs a folder that a revision wrote: nothing of the machine in it, and equal content gives equal bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

TEXT = {".json", ".jsonl", ".yaml", ".yml", ".csv", ".txt", ".md"}
MACHINE = {"processor": "some processor", "system": "Linux", "memory_bytes": 1, "git_revision": None}


def make_portable(root: Path) -> None:
    """Take the place `root` out of all text below it, so that every path is relative to it, and renew what was
    counted or hashed over the changed files."""
    place = str(root.resolve())
    for path in _files(root):
        if path.suffix in TEXT:
            text = path.read_text(encoding="utf8")
            if path.name == "environment.json":
                text = json.dumps(json.loads(text) | MACHINE, indent=1)
            path.write_text(text.replace(f"{place}/", "").replace(place, "."), encoding="utf8")
    for path in root.rglob("manifest.json"):
        digests = {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in _listed(path)}
        path.write_text(json.dumps({"sha256": digests}, indent=1) + "\n", encoding="utf8")
    for path in root.rglob("done.json"):
        marker = json.loads(path.read_text(encoding="utf8"))
        marker["files"] = {name: (path.parent / name).stat().st_size for name in marker["files"]}
        path.write_text(json.dumps(marker, indent=1) + "\n", encoding="utf8")


def pack(root: Path, parts: list[str], archive: Path) -> None:
    """Write folders of `root` into a .tar.gz; lock files stay out.

    Raises:
        ValueError: a file names the place that it was made in.
    """
    named = [path for path in _files(root) if str(root.resolve()).encode() in path.read_bytes()]
    if named:
        raise ValueError(f"these name the folder they were made in: {', '.join(map(str, named))}")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(file for part in parts for file in _files(root / part)):
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)
    archive.write_bytes(gzip.compress(content.getvalue(), compresslevel=9, mtime=0))


def unpack(archive: Path, root: Path) -> None:
    """The folders that `pack` read."""
    with tarfile.open(archive, "r:gz") as tar:
        tar.extractall(root, filter="data")


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]


def _listed(manifest: Path) -> list[str]:
    return list(json.loads(manifest.read_text(encoding="utf8"))["sha256"])
