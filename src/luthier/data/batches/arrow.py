"""Encoded columns as Arrow arrays: token ids as int32, masks and types of tokens as int8."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

_SMALL = ("attention_mask", "token_type_ids")
_WHOLE = ("input_ids", *_SMALL)


def record_batch(encoded: Mapping[str, Sequence[Any]], schema: pyarrow.Schema | None = None) -> pyarrow.RecordBatch:
    """N encoded rows.

    Args:
        encoded: column -> N values.
        schema: of the rows before, or None for the first ones.

    Raises:
        pyarrow.ArrowInvalid: they don't fit the schema.
    """
    arrays = {name: _array(name, values) for name, values in encoded.items()}
    if schema is not None:
        arrays = {
            field.name: arrays[field.name]
            if arrays[field.name].type == field.type
            else pyarrow.array(encoded[field.name], field.type)
            for field in schema
        }
    return pyarrow.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def write_batches(file: Path, batches: Iterable[pyarrow.RecordBatch]) -> None:
    """Write batches to a file as they are made; without any, an empty table."""
    rest = iter(batches)
    first = next(rest, None)
    schema = pyarrow.schema([]) if first is None else first.schema
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for batch in itertools.chain([] if first is None else [first], rest):
            writer.write_batch(batch)


def _array(name: str, values: Sequence[Any]) -> pyarrow.Array:
    if len(values) and set(map(type, values)) <= {list, tuple}:
        offsets = np.zeros(len(values) + 1, dtype=np.int32)
        np.cumsum([len(one) for one in values], out=offsets[1:])
        inner = _array_of_lists(name, list(itertools.chain.from_iterable(values)))
        return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), inner)
    return pyarrow.array(values)


def _array_of_lists(name: str, flat: list[Any]) -> pyarrow.Array:
    if not flat:
        return pyarrow.array([], pyarrow.int8() if name in _SMALL else pyarrow.int32())
    if isinstance(flat[0], list | tuple):
        return _array(name, flat)
    if name in _WHOLE or set(map(type, flat)) == {int}:
        return pyarrow.array(np.fromiter(flat, np.int8 if name in _SMALL else np.int32, len(flat)))
    return pyarrow.array(flat)
