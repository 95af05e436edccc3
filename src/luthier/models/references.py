"""What a model reference means, and a fingerprint of what it points at. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from luthier.errors import ModelError, nearest
from luthier.models.hub import commit_of
from luthier.models.safety import TRAINER_STATE
from luthier.models.settings import ModelSettings
from luthier.models.source import ModelSource
from luthier.storage.hashing import combined_sha256
from luthier.storage.nearby import RUNS, did_you_mean, nearest_path
from luthier.storage.one_version import check_unchanged, first_sight
from luthier.storage.paths import is_file, is_folder, user_path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")
_PACKAGE = re.compile(r"[A-Za-z_][\w-]*")
_DEPTH = 4
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt")
_CONTENT = re.compile(
    r"(adapter_|generation_)?config\.json|(tokenizer|vocab|merges|special_tokens|added_tokens|chat_template)[^/]*"
    r"|[^/]+\.(safetensors|index\.json|gguf|bin|pt|pth|ckpt|model|spm|tiktoken)"
)


def resolve(settings: ModelSettings | str) -> ModelSource:
    """Find out what a reference names, without reading weights, importing packages or using the network.

    Raises:
        ModelError: it names nothing, several models, or a place outside the package it names.
    """
    settings = ModelSettings.model_validate(settings)
    reference = settings.reference
    if reference.startswith("package:"):
        return _in_package(settings)
    path = user_path(reference)
    if path.suffix == ".gguf" and is_file(path):
        return ModelSource("directory", reference, path=path.resolve().parent, gguf_file=path.name)
    if is_folder(path):
        return _in_directory(settings, path.resolve())
    return _on_hub(settings)


def fingerprint(source: ModelSource) -> str:
    """SHA-256 that changes when the model does: over names and contents of its config, tokenizer and weight
    files, or, for a hub id, over the id and the commit that its revision stands for. In a run, as at first sight.

    Raises:
        ModelError: the commit of a hub id can't be found out.
    """
    if source.kind == "hub":
        return hashlib.sha256(f"{source.hub_id}@{commit(source)}".encode()).hexdigest()
    path = _path_of(source)
    return first_sight(model_name(source), lambda: content_fingerprint(path, source.gguf_file))


def commit(source: ModelSource) -> str:
    """The commit that the revision of a hub id stands for; in a run, at first sight.

    Raises:
        ModelError: it can't be found out.
    """
    return first_sight(model_name(source), lambda: commit_of(source))


def check_model_unchanged(source: ModelSource, folder: Path) -> None:
    """To be called when a model was read.

    Args:
        source: what was read.
        folder: where its files are on this machine; for a hub id, named after its commit.

    Raises:
        WorkspaceError: it is no longer what it was when the run first looked at it.
    """
    if source.kind == "hub":
        check_unchanged(model_name(source), lambda: folder.name, source.reference)
    else:
        check_unchanged(model_name(source), lambda: content_fingerprint(folder, source.gguf_file), source.reference)


def model_name(source: ModelSource) -> str:
    """What a run knows a model by: its place, and the file in it."""
    place = f"{source.hub_id}@{source.revision}" if source.kind == "hub" else str(_path_of(source).resolve())
    return f"model {place} {source.gguf_file}"


def content_fingerprint(folder: Path, gguf_file: str | None = None) -> str:
    """SHA-256 over names and contents of the files in a model folder that decide what the model computes."""
    files = [path for path in folder.iterdir() if _CONTENT.fullmatch(path.name) and path.is_file()]
    files = [path for path in files if path.name not in TRAINER_STATE]
    if gguf_file is not None:
        files = [path for path in files if path.suffix not in _WEIGHTS or path.name == gguf_file]
    elif any(path.suffix == ".safetensors" for path in files):
        files = [path for path in files if path.suffix not in _WEIGHTS or path.suffix == ".safetensors"]
    return combined_sha256(folder, files)


def _path_of(source: ModelSource) -> Path:
    if source.path is None:
        raise ModelError("the model has no local folder", where=source.reference)
    return source.path


def _on_hub(settings: ModelSettings) -> ModelSource:
    reference = settings.reference
    name, _, revision = reference.partition("@")
    looks_like_path = reference.startswith((".", "/", "~")) or "\\" in reference or reference.count("/") > 1
    looks_like_path = looks_like_path or reference.endswith(".gguf") or _is_beside_another(reference)
    if looks_like_path or not _HUB_ID.fullmatch(name) or ".." in name or "--" in name:
        raise ModelError("no such model directory", where=reference, fix=_similar_directory(reference))
    if revision and settings.revision and revision != settings.revision:
        raise ModelError(
            f"two revisions are given, {revision!r} and {settings.revision!r}",
            where=reference,
            fix="leave one out",
        )
    file = settings.gguf_file
    if file is not None and (Path(file).name != file or not file.endswith(".gguf")):
        raise ModelError(f"{file!r} is no name of a GGUF file", where=reference, fix="give a name that ends in .gguf")
    return ModelSource("hub", reference, hub_id=name, revision=revision or settings.revision, gguf_file=file)


def _is_beside_another(reference: str) -> bool:
    """Whether `folder/name` is a run that isn't there, or differs in letters only from a folder that is."""
    folder, slash, _ = reference.partition("/")
    return bool(slash) and is_folder(folder) and (folder == RUNS or nearest_path(reference) is not None)


def _similar_directory(reference: str) -> str:
    hint = did_you_mean(reference)
    others = "give a directory with config.json and *.safetensors, a hub id `org/name`, or `package:NAME`"
    return f"{hint} otherwise {others}" if hint else others


def _in_directory(settings: ModelSettings, path: Path) -> ModelSource:
    reference = settings.reference
    if (path / "luthier.json").is_file():
        return ModelSource("artifact", reference, path=path)
    if (path / "model" / "luthier.json").is_file():
        return ModelSource("artifact", reference, path=path / "model")
    stages = sorted(p.parent for p in path.glob("[0-9][0-9]-*/done.json"))
    finished = [stage / "model" for stage in stages if (stage / "model" / "luthier.json").is_file()]
    if finished:
        return ModelSource("artifact", reference, path=finished[-1])
    if not (path / "config.json").is_file() and not settings.gguf_file and not list(path.glob("*.gguf")):
        _refuse_folder_without_model(path)
    return ModelSource("directory", reference, path=path, gguf_file=_gguf_in(path, settings))


def _refuse_folder_without_model(path: Path) -> None:
    if (path / "adapter_config.json").is_file():
        return  # a stock PEFT adapter; loading says which base it needs
    if (path / "cells").is_dir():
        raise ModelError(
            "this is a comparison of several runs",
            where=str(path),
            fix="name one of them: " + str(path / "cells" / "NAME"),
        )
    if list(path.glob("[0-9][0-9]-*")):
        raise ModelError("this run has no finished stage with a model", where=str(path), fix="let the run finish first")
    raise ModelError(
        "the directory holds no model",
        where=str(path),
        fix="it needs config.json and *.safetensors, or a *.gguf file",
    )


def _gguf_in(folder: Path, settings: ModelSettings) -> str | None:
    """The GGUF file to read, where the folder is to be read as one."""
    named = settings.gguf_file
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if named is not None:
        if Path(named).name != named or named not in found:
            guess = nearest(named, found)
            raise ModelError(
                f"there is no GGUF file {named!r}",
                where=str(folder),
                fix=(f"did you mean {guess!r}? " if guess else "") + f"found: {', '.join(found) or 'none'}",
            )
        return named
    if not found or list(folder.glob("*.safetensors")):
        return None
    if len(found) > 1:
        raise ModelError(
            f"the folder holds {len(found)} GGUF files: {', '.join(found)}",
            where=str(folder),
            fix="name one with `gguf_file`",
        )
    return found[0]


def _in_package(settings: ModelSettings) -> ModelSource:
    reference = settings.reference
    name, _, inner = reference.removeprefix("package:").partition("/")
    if not _PACKAGE.fullmatch(name):
        raise ModelError(
            "that is no name of a package",
            where=reference,
            fix="write `package:NAME` or `package:NAME/folder`",
        )
    root = package_folder(name, reference)
    if inner:
        folder = (root / inner).resolve()
        if inner.startswith("/") or ".." in inner.split("/") or not folder.is_relative_to(root.resolve()):
            raise ModelError(
                "a path inside a package can't leave the package",
                where=reference,
                fix="drop `..` and leading `/`",
            )
        if is_file(folder) and folder.suffix == ".gguf":
            return ModelSource("package", reference, path=folder.parent, gguf_file=folder.name)
        if not is_folder(folder):
            raise ModelError("the package has no such folder", where=reference, fix=_choices(name, root))
        root = folder
    folder = _only_model_below(root, reference, name)
    return ModelSource("package", reference, path=folder, gguf_file=_gguf_in(folder, settings))


def package_folder(name: str, where: str) -> Path:
    """Folder of an installed package, found without importing it. The distribution's name works as well.

    Raises:
        ModelError: it is not installed.
    """
    for candidate in _import_names(name):
        try:
            spec = importlib.util.find_spec(candidate)
        except (ImportError, ValueError):
            spec = None
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    installed = {dist.name.replace("-", "_") for dist in importlib.metadata.distributions() if dist.name}
    guess = nearest(name.replace("-", "_"), sorted(installed))
    raise ModelError(
        f"the Python package {name!r} is not installed",
        where=where,
        fix=(f"did you mean package:{guess}? otherwise " if guess else "") + f"`pip install {name.replace('_', '-')}`",
    )


def _import_names(name: str) -> Iterator[str]:
    first = name.replace("-", "_")
    yield first  # mostly the right one, and the list of a package's files takes time to read
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    tops = {file.parts[0] for file in files if len(file.parts) > 1}
    yield from sorted(top for top in tops if top.isidentifier() and top != first)


def _models_below(root: Path) -> list[Path]:
    def visit(folder: Path, depth: int) -> list[Path]:
        if _holds_model(folder):
            return [folder]
        if depth == _DEPTH:
            return []
        inner = sorted(p for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__")
        return [found for path in inner for found in visit(path, depth + 1)]

    return visit(root, 0)


def _holds_model(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    safetensors = "config.json" in names and any(name.endswith(_WEIGHTS) for name in names)
    return safetensors or any(name.endswith(".gguf") for name in names)


def _only_model_below(root: Path, reference: str, name: str) -> Path:
    found = _models_below(root)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelError(
            "the package holds no model",
            where=reference,
            fix="it needs config.json beside *.safetensors, or a *.gguf file",
        )
    raise ModelError(
        f"the package holds {len(found)} models",
        where=reference,
        fix=_choices(name, package_folder(name, reference)),
    )


def _choices(name: str, root: Path) -> str:
    found = [f"package:{name}/{path.relative_to(root).as_posix()}" for path in _models_below(root)]
    return "write one of: " + ", ".join(found) if found else "the package holds no model"
