"""What a model is fed, as keys: equal keys are equal inputs, of a whole batch and of each of its rows.

Shapes: B rows of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from luthier.training.trunk.split_point import TARGETS

KEY_BYTES = 16
_MASK = "attention_mask"


def batch_key(batch: Mapping[str, Any]) -> str:
    """Digest, in hex, of every input of a collated batch, padding included.

    Raises:
        ValueError: an input is no tensor.
    """
    digest = xxhash.xxh3_128()
    for name, value in sorted(_inputs(batch).items()):
        if not isinstance(value, Tensor):
            raise ValueError(f"the input {name} of a batch is no tensor")
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(_array(value).tobytes())
    return digest.hexdigest()


def row_keys(batch: Mapping[str, Any], *, from_first: bool = False) -> list[bytes] | None:
    """The key of each row of a batch: of all its inputs at its real tokens, and of where these stand.

    A row has the same key in every batch that pads it on the right. What is padded on the left stands elsewhere in a
    longer batch, and has another key there.

    Args:
        batch: inputs by name, with an `attention_mask` (B, T).
        from_first: count places from the first real token, so that a row has one key however it is padded.

    Returns:
        B keys, or None where there is no such mask, or an input that does not have a part for each row.
    """
    inputs = _inputs(batch)
    mask = inputs.pop(_MASK, None)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or "input_ids" not in inputs:
        return None
    if not all(isinstance(value, Tensor) and value.shape[:1] == mask.shape[:1] for value in inputs.values()):
        return None
    seen = _array(mask)
    arrays = {f"{name} {value.dtype}": _array(value) for name, value in sorted(inputs.items())}
    rows = ({name: array[row] for name, array in arrays.items()} for row in range(len(seen)))
    return [_row_key(mask, inputs, from_first) for mask, inputs in zip(seen, rows, strict=True)]


def _row_key(mask: np.ndarray, inputs: dict[str, np.ndarray], from_first: bool) -> bytes:
    places = np.flatnonzero(mask)
    start = places[0] if from_first and len(places) else 0
    digest = xxhash.xxh3_128(mask[start : places[-1] + 1].tobytes() if len(places) else b"")
    for name, array in inputs.items():
        part = array[places] if array.shape[:1] == mask.shape else array
        digest.update(f"{name} {part.shape}\n".encode())
        digest.update(part.tobytes())
    return digest.digest()


def _inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in TARGETS and value is not None}


def _array(tensor: Tensor) -> np.ndarray:
    values = tensor.detach().cpu().contiguous()
    array: np.ndarray = (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()
    return array
