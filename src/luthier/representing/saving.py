"""A shared encoder on disk: one small file a prefix and head, and one manifest for the combination.

    shared_encoder.json        how the prefixes are combined, their weights, and which files there are
    prefixes/<task>.safetensors
    heads/<name>.safetensors
    luthier.json               the card: which base model, and its fingerprint
    manifest.json              SHA-256 of every file, written last

The base model itself is not saved: no weight of it ever changes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from luthier.errors import ModelError
from luthier.models.adapter_files import refuse_other_base
from luthier.models.adapters import base_settings
from luthier.models.artifacts import whole_artifact
from luthier.models.card import ModelCard, read_card, write_card
from luthier.models.manifest import verify_manifest, write_manifest
from luthier.models.references import resolve
from luthier.models.safety import check_links
from luthier.models.settings import Danger, ModelSettings
from luthier.models.tensors import read_json
from luthier.representing.base import check_name
from luthier.representing.heads import Head, read_head
from luthier.representing.representation import Combine, PrefixMark, TextPooling
from luthier.representing.states import TaskPrefix
from luthier.storage.files import json_text

COMBINATION = "shared_encoder.json"
_FORMAT = 1


@dataclass(frozen=True)
class SavedCombination:
    """The content of `shared_encoder.json`.

    Attributes:
        dtype, attention: of the base model, as in `ModelSettings`.
        combine, pooling, normalise, max_length: as in `SharedEncoder`.
        prefixes: SHA-256 of the tensors, and weight, by task.
        heads: their names.
        format_version: of this file.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    dtype: str
    attention: str
    combine: Combine
    pooling: TextPooling
    normalise: bool
    max_length: int
    prefixes: dict[str, PrefixMark] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    format_version: int = _FORMAT


def save_combination(
    directory: str | Path,
    card: ModelCard,
    saved: SavedCombination,
    prefixes: dict[str, TaskPrefix],
    heads: dict[str, Head],
) -> Path:
    """Write the folder; it appears whole or not at all.

    Raises:
        WorkspaceError: it can't be written, or holds something that Luthier did not save.
    """
    method = {"name": "shared_encoder", "combine": saved.combine, "tasks": list(prefixes)}
    with whole_artifact(directory) as scratch:
        for folder, files in (("prefixes", prefixes), ("heads", heads)):
            if files:
                (scratch / folder).mkdir()
        for task, prefix in prefixes.items():
            prefix.write(_file(scratch, "prefixes", task), task, card.base_fingerprint)
        for name, head in heads.items():
            head.write(_file(scratch, "heads", name))
        text = json_text(dataclasses.asdict(saved), sort_keys=True, ensure_ascii=True)
        (scratch / COMBINATION).write_text(text, encoding="utf-8")
        write_card(scratch, dataclasses.replace(card, max_length=saved.max_length, method=method))
        write_manifest(scratch)
    return Path(directory).absolute()


def read_combination(directory: str | Path) -> tuple[Path, ModelCard, SavedCombination]:
    """Find and check the folder: its own, that of a stage, or that of a run.

    Raises:
        ModelError: there is none, or a file of it is missing or changed.
    """
    source = resolve(str(directory))
    folder = source.path
    if source.kind != "artifact" or folder is None or not (folder / COMBINATION).is_file():
        raise ModelError(
            "no shared encoder was saved here", where=str(directory), fix="name a folder that SharedEncoder.save wrote"
        )
    check_links(folder)
    verify_manifest(folder)
    path = folder / COMBINATION
    content: dict[str, Any] = read_json(path)
    if isinstance(version := content.get("format_version"), int) and version > _FORMAT:
        raise ModelError(
            f"the encoder was saved by a newer Luthier (format {version})",
            where=str(path),
            fix="pip install -U luthier",
        )
    try:
        saved = TypeAdapter(SavedCombination).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"`{key}`: {first['msg']}", where=str(path), fix="restore the file from a copy") from error
    return folder, read_card(folder), saved


def base_of_saved(
    folder: Path,
    card: ModelCard,
    saved: SavedCombination,
    base: ModelSettings | str | None,
    allow: tuple[Danger, ...] = (),
) -> ModelSettings:
    """Settings of the base model, which must be the one that the encoder was saved with.

    Args:
        base: where it is, if not where the card says.
        allow: `pickle` or `remote_code`, where it is refused without.

    Raises:
        ModelError: it is another one, or is no longer there.
    """
    try:
        how = {"dtype": saved.dtype, "attention": saved.attention, "allow": allow}
        own = ModelSettings.model_validate({"reference": card.base} | how)
    except ValidationError as error:
        raise ModelError(
            f"`{error.errors()[0]['loc'][0]}` has a value that is not known",
            where=str(folder / COMBINATION),
            fix="restore the file from a copy",
        ) from error
    if isinstance(base, str):
        base = own.model_copy(update={"reference": base})
    settings = base or base_settings(card, own)
    refuse_other_base(folder, card, settings)
    return settings


def read_prefixes(folder: Path, saved: SavedCombination) -> dict[str, TaskPrefix]:
    """The prefixes, by task.

    Raises:
        ModelError: a file is damaged, or not the one that the combination names.
    """
    found = {}
    for task, mark in saved.prefixes.items():
        check_name(task, "task")
        path = _file(folder, "prefixes", task)
        prefix, about = TaskPrefix.read(path)
        if prefix.digest != mark.sha256 or about["task"] != task:
            raise ModelError(
                f"this is not the prefix of the task {task!r} that the combination names",
                where=str(path),
                fix="restore the file from a copy",
            )
        found[task] = prefix
    return found


def read_heads(folder: Path, saved: SavedCombination) -> dict[str, Head]:
    """The heads, by name.

    Raises:
        ModelError: a file is damaged.
    """
    for name in saved.heads:
        check_name(name, "head")
    return {name: read_head(_file(folder, "heads", name)) for name in saved.heads}


def _file(folder: Path, kind: str, name: str) -> Path:
    return folder / kind / f"{name}.safetensors"
