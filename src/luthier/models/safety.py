"""What a model folder may not do: run code, fetch code, unpickle, or reach outside itself.

Everything is decided from file names and JSON, before any weight is read. Nothing here imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.models.sizes import Stored, check_sizes, check_sizes_of_weights
from luthier.models.tensors import check_index, check_safetensors, read_json, tensor_sizes

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
CONFIG_FILES = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "adapter_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
_WITH_SIZES = ("config.json", "adapter_config.json")
TRAINER_STATE = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})
_RUNS_CODE = {
    "auto_map": "names Python classes that come with the model",
    "custom_pipelines": "names Python pipelines that come with the model",
    "custom_generate": "names a generation function that comes with the model",
    "trust_remote_code": "asks for Python that comes with the model to be run",
    "code_revision": "names Python that comes with the model",
}
_FETCHES_CODE = {
    "use_kernels": "asks for compute kernels to be downloaded and run",
    "kernel_config": "names compute kernels to be downloaded and run",
    "allow_all_kernels": "asks for compute kernels of any publisher to be downloaded and run",
    "megatron_config": "names a Python module to be imported",
    "cache_file": "names a pickle file to be read",
    "covariance_file": "names a pickle file to be read",
    "prompt_tuning_init_state_dict_path": "names a weight file outside the adapter",
}
_IMPLEMENTATION = re.compile(r"_?(attn|experts|attention|moe)_implementation(_internal)?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]*")


def check_model_folder(
    folder: Path, *, allow: Collection[str] = (), gguf_file: str | None = None, contained: bool = True
) -> None:
    """Refuse a model folder that is unsafe or damaged.

    Args:
        folder: with `config.json` and weights, or with a GGUF file.
        allow: `pickle` or `remote_code` to accept what is otherwise refused.
        gguf_file: the file that holds the weights, where they are not safetensors.
        contained: refuse links that lead out of the folder.

    Raises:
        ModelError: what was found, in which file, and what to do.
    """
    if contained:
        check_links(folder)
    check_configs(folder, allow)
    if gguf_file is None:
        files = check_weights(folder, allow)
        if (folder / "config.json").is_file():
            check_sizes_of_weights(read_json(folder / "config.json"), folder / "config.json", _stored(files))
    else:
        _check_gguf(folder / gguf_file)


def check_configs(folder: Path, allow: Collection[str] = ()) -> None:
    """Look through the JSON files that loading would read."""
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            check_config(read_json(folder / name), folder / name, allow)


def check_config(config: dict[str, Any], path: Path, allow: Collection[str] = ()) -> None:
    """Refuse keys, at any depth, that run or fetch code or point outside the model's folder."""
    for trail, key, value in _entries(config):
        where = f"{path}, key {trail}"
        if not value:
            continue
        if key in _RUNS_CODE and "remote_code" not in allow:
            raise ModelError(
                f"`{key}` {_RUNS_CODE[key]}, which would run on this machine",
                where=where,
                fix="use a model that transformers supports without it; if you have read that code and "
                "trust it, add `allow: [remote_code]` to the recipe's model, or `--allow remote_code` to the command",
            )
        if key in _FETCHES_CODE:
            raise ModelError(f"`{key}` {_FETCHES_CODE[key]}", where=where, fix=f"remove `{key}` from the file")
        if _IMPLEMENTATION.fullmatch(key):
            _check_implementation(key, value, where)
        if key == "quantization_config":
            _refuse_quantised(value, where)
        if key.endswith("_file") or key == "transformers_weights":
            _check_file_name(key, value, path, where)
    _check_auto_mapping(config, path)
    if path.name in _WITH_SIZES:
        check_sizes(config, path)


def _entries(value: Any, trail: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{trail}.{key}" if trail else str(key)
            yield here, str(key), inner
            yield from _entries(inner, here)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _entries(inner, f"{trail}[{position}]")


def _check_implementation(key: str, value: Any, where: str) -> None:
    named = value.values() if isinstance(value, dict) else [value]
    for name in named:
        if isinstance(name, dict):
            _check_implementation(key, name, where)
        elif name is not None and not _PLAIN_NAME.fullmatch(str(name)):
            raise ModelError(
                f"`{key}` names {str(name)!r}, a compute kernel that would be downloaded and run",
                where=where,
                fix=f"remove `{key}` from the file; choose with `attention` in the recipe instead",
            )


def _refuse_quantised(value: Any, where: str) -> None:
    method = value.get("quant_method", "unknown") if isinstance(value, dict) else value
    raise ModelError(
        f"the weights are quantised (method {method!r}): they can't be trained, "
        "and reading them runs the code of other packages",
        where=where,
        fix="use the model's original weights, or a GGUF file, which is dequantised when it is read",
    )


def _check_file_name(key: str, value: Any, path: Path, where: str) -> None:
    """A name recorded on somebody else's machine does no harm; one that exists here would be read."""
    if not isinstance(value, str):
        return
    named = Path(value)
    outside = named.is_absolute() or ".." in named.parts or "\\" in value
    if outside and (key == "transformers_weights" or (path.parent / named).exists()):
        raise ModelError(
            f"`{key}` points at {value!r}, outside the model's folder",
            where=where,
            fix=f"remove `{key}` from the file, or put the file it means beside it",
        )


def _check_auto_mapping(config: dict[str, Any], path: Path) -> None:
    library = (
        (config.get("auto_mapping") or {}).get("parent_library")
        if isinstance(config.get("auto_mapping"), dict)
        else None
    )
    if library is not None and str(library).split(".")[0] not in ("transformers", "luthier"):
        raise ModelError(
            f"`auto_mapping` names the Python module {library!r} to be imported",
            where=f"{path}, key auto_mapping.parent_library",
            fix="remove `auto_mapping` from the file",
        )


def check_weights(folder: Path, allow: Collection[str] = ()) -> list[Path]:
    """The weight files that loading would read, each of them whole.

    Raises:
        ModelError: there are only pickles, none at all, or a file is damaged.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        check_index(index)
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        check_safetensors(path)
    if files:
        return files
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    check_weight_names(names, str(folder), allow)
    return [folder / name for name in names if name.endswith(PICKLES)]


def _stored(files: list[Path]) -> Stored:
    """What weight files hold; of pickles, which are not looked into, only that no number has less than 4 bits."""
    sizes = [tensor_sizes(path) for path in files if path.suffix == ".safetensors"]
    if sizes:
        return Stored(sum(map(len, sizes)), sum(sum(tensors.values()) for tensors in sizes))
    numbers = 2 * sum(path.stat().st_size for path in files)
    return Stored(numbers, numbers)


def check_weight_names(names: Collection[str], where: str, allow: Collection[str] = ()) -> None:
    """Refuse a model whose file names show that it has no safetensors weights."""
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = sorted(name for name in names if name.endswith(PICKLES) and name not in TRAINER_STATE)
    if not pickles:
        raise ModelError("there are no weights (*.safetensors)", where=where, fix="copy or download the model again")
    if "pickle" in allow:
        return
    raise ModelError(
        f"the weights are not safetensors but {', '.join(pickles[:3])}{' …' if len(pickles) > 3 else ''}, "
        "a format that can run code when it is read; nothing was read",
        where=where,
        fix="use a revision with safetensors, or convert the weights on a machine that may run their code; "
        "if you trust the file, add `allow: [pickle]` to the recipe's model, or `--allow pickle` to the command",
    )


def check_links(folder: Path) -> None:
    """Refuse links that lead out of the folder, save those of the Hugging Face cache to its own blobs."""
    inside = [folder.resolve()]
    if folder.parent.name == "snapshots":
        inside.append((folder.parent.parent / "blobs").resolve())
    for root, directories, names in os.walk(folder):
        for name in [*directories, *names]:
            path = Path(root) / name
            if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in inside):
                raise ModelError(
                    f"the link leads out of the model's folder, to {path.resolve()}",
                    where=str(path),
                    fix="replace the link by the file itself",
                )


def _check_gguf(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError("the file is no GGUF file", where=str(path), fix="copy or download it again")
