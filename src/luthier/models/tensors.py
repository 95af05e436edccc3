"""Whether safetensors files are whole, judged from their headers. Nothing here imports torch.

A safetensors file has no checksum: a flipped byte among the numbers can't be seen from the file alone. Where
a manifest or an installed package's record holds one, it is compared elsewhere.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from luthier.errors import ModelError

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64,
    "I64": 64, "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_LONGEST_HEADER = 50_000_000
_LARGEST_JSON = 32_000_000
_DEEPEST_JSON = 100
_MOST_DIMENSIONS = 64
_FETCH_AGAIN = "the file is damaged or incomplete: copy or download it again"


def check_safetensors(path: Path) -> list[str]:
    """Compare a file's header with its size, and return the names of its tensors.

    Raises:
        ModelError: the file is cut short, or its header does not describe it.
    """
    return list(tensor_sizes(path))


def tensor_sizes(path: Path) -> dict[str, int]:
    """How many numbers each tensor of a safetensors file has, after `check_safetensors`."""
    header, data_bytes = _header(path)
    spans, sizes = [], {}
    for name, entry in header.items():
        if name == "__metadata__":
            _check_metadata(path, entry)
        else:
            start, end, sizes[name] = _span(path, name, entry)
            spans.append((start, end, name))
    position = 0
    for start, end, name in sorted(spans):
        if start != position:
            raise ModelError(
                f"tensor {name!r} starts at byte {start} instead of {position}",
                where=str(path),
                fix=_FETCH_AGAIN,
            )
        position = end
    if position != data_bytes:
        what = "cut short" if position > data_bytes else "longer than its header says"
        raise ModelError(
            f"the file is {what}: its header describes {position} bytes of weights, it has {data_bytes}",
            where=str(path),
            fix=_FETCH_AGAIN,
        )
    return sizes


def check_index(path: Path) -> list[Path]:
    """The weight files that an index names, all of them beside it.

    Raises:
        ModelError: the index is damaged, names a file outside its folder, or one that is missing.
    """
    index = read_json(path)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(
            "the index has no `weight_map` of tensor names to file names", where=str(path), fix=_FETCH_AGAIN
        )
    files = []
    for name in sorted(set(names.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ModelError(
                f"the index names {name!r}, which is not a safetensors file in the model's own folder",
                where=str(path),
                fix="do not use this model: a weight index has no reason to point elsewhere",
            )
        if not (path.parent / name).is_file():
            raise ModelError(f"the weight file {name!r} is missing", where=str(path), fix=_FETCH_AGAIN)
        files.append(path.parent / name)
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: it can't be read, or is no JSON object.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelError(
                f"the file has {path.stat().st_size:,} bytes, and is read up to {_LARGEST_JSON:,}",
                where=str(path),
                fix=_FETCH_AGAIN,
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"the file can't be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"the file is not UTF-8 (byte {error.start})", where=str(path), fix=_FETCH_AGAIN) from error
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise ModelError(f"the file is not valid JSON: {error.msg}", where=where, fix=_FETCH_AGAIN) from error
    except ValueError as error:
        raise ModelError(f"the file is not valid JSON: {error}", where=str(path), fix=_FETCH_AGAIN) from error
    except RecursionError as error:
        raise ModelError("the JSON is nested too deeply", where=str(path), fix=_FETCH_AGAIN) from error
    if _depth(value) > _DEEPEST_JSON:
        raise ModelError("the JSON is nested too deeply", where=str(path), fix=_FETCH_AGAIN)
    if not isinstance(value, dict):
        raise ModelError("the file holds no JSON object", where=str(path), fix=_FETCH_AGAIN)
    return value


def _header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8 or length > min(_LONGEST_HEADER, size - 8):
            raise ModelError("the file is cut short, or is no safetensors file", where=str(path), fix=_FETCH_AGAIN)
        raw = stream.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_int=_size)
        if b"\\u" in raw:
            json.dumps(header, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the file's header can't be read: {error}", where=str(path), fix=_FETCH_AGAIN) from error
    if not isinstance(header, dict):
        raise ModelError("the file's header can't be read", where=str(path), fix=_FETCH_AGAIN)
    return header, size - 8 - length


def _size(digits: str) -> int:
    if digits.startswith("-"):  # -0 too
        raise ValueError(f"{digits} is no size")
    return int(digits)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is named twice")
    return entries


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _check_metadata(path: Path, entry: Any) -> None:
    if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
        raise ModelError("the header's `__metadata__` is no mapping of texts", where=str(path), fix=_FETCH_AGAIN)


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, int]:
    """Where a tensor begins and ends, and how many numbers it has."""

    def wrong(key: str) -> ModelError:
        what = f"the header's entry for tensor {name!r} is wrong, see `{key}`"
        return ModelError(what, where=str(path), fix=_FETCH_AGAIN)

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong(name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise wrong("dtype")
    if not _is_whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong("data_offsets")
    numbers = math.prod(shape) if _is_whole_numbers(shape) and len(shape) <= _MOST_DIMENSIONS else -1
    start, end = offsets
    if numbers * _BITS[dtype] != (end - start) * 8:
        raise wrong("shape")
    return start, end, numbers


def _is_whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)
