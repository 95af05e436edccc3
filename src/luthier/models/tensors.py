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
_LONGEST_HEADER = 100_000_000
_FETCH_AGAIN = "the file is damaged or incomplete: copy or download it again"


def check_safetensors(path: Path) -> list[str]:
    """Compare a file's header with its size, and return the names of its tensors.

    Raises:
        ModelError: the file is cut short, or its header does not describe it.
    """
    header, data_bytes = _header(path)
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        spans.append((*_span(path, name, entry), name))
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
    return [name for *_, name in spans]


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
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"the file can't be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"the file is not UTF-8 (byte {error.start})", where=str(path), fix=_FETCH_AGAIN) from error
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise ModelError(f"the file is not valid JSON: {error.msg}", where=where, fix=_FETCH_AGAIN) from error
    except RecursionError as error:
        raise ModelError("the JSON is nested too deeply", where=str(path), fix=_FETCH_AGAIN) from error
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
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError("the file's header can't be read", where=str(path), fix=_FETCH_AGAIN) from error
    if not isinstance(header, dict):
        raise ModelError("the file's header can't be read", where=str(path), fix=_FETCH_AGAIN)
    return header, size - 8 - length


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    try:
        start, end = (int(offset) for offset in entry["data_offsets"])
        bits = _BITS[entry["dtype"]] * math.prod(int(n) for n in entry["shape"])
        if start < 0 or end < start or (end - start) * 8 != bits:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"the header's entry for tensor {name!r} is wrong", where=str(path), fix=_FETCH_AGAIN
        ) from error
    return start, end
