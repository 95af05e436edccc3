"""The frozen part of a model, computed once: its outputs are kept on disk and fed to the trained part.

A split point is a module. All that runs up to its output must be frozen; its output is stored, and while the
rest is trained the module and the layers before it in its list are not run. The frozen part is always run in
evaluation mode here: where it has dropout, features are those without it, which is not what training without a
cache sees unless that dropout is off. What runs behind the split point keeps its own mode.

In float32 a batch of the rows that were computed together gives bit for bit what the model gives. Rows that meet
in another batch are padded to another length and multiplied in other blocks, so that they agree to rounding.

Shapes: N rows, B rows of a batch, T tokens, d width.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from luthier.storage.arrays import (
    STORED,
    check_dtype,
    evaluating,
    identity,
    packed,
    unpacked,
    weights_fingerprint,
)
from luthier.storage.folder_cache import FolderCache, mark_used
from luthier.storage.sealed_arrays import ABOUT, stored_arrays, writing_arrays
from luthier.storage.sealed_folder import tell_of_damage
from luthier.training.trunk.fed_rows import KEY_BYTES, batch_key, row_keys
from luthier.training.trunk.split_point import TARGETS, names_of, output_of, tensor_of, with_tensors

logger = logging.getLogger(__name__)

_FORMAT = 4
T = TypeVar("T")
Collator = Callable[[list[Any]], dict[str, Tensor]]


@dataclass(frozen=True)
class Field:
    """One tensor of the split point's output.

    Attributes:
        name: its name in a `ModelOutput`; empty where the output is a single tensor.
        form: `row` (B, d), `first` (B, T, d) of which the first position is read, or `tokens` (B, T, d).
        width: d.
    """

    name: str
    form: str
    width: int


def head_split(model: Any) -> str:
    """The split point of a model whose task head is trained and nothing else.

    Raises:
        ValueError: parts of the body are trained too.
    """
    body, prefix = model.base_model, model.base_model_prefix
    if body is model:
        raise ValueError(f"{type(model).__name__} has no task head")
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    if not trained:
        return str(prefix)
    if trained == {"pooler"} and isinstance(getattr(body, "encoder", None), nn.Module):
        return f"{prefix}.encoder"
    raise ValueError(f"parts of the body are trained ({', '.join(sorted(trained))}): name the split point")


class Features:
    """The stored outputs of one split point for N rows, memory-mapped.

    Attributes:
        folder: where they lie.
        fields: what is stored.
        keys: of the N rows, see `row_keys`.
    """

    def __init__(self, folder: Path) -> None:
        """Open features after comparing every byte with what was written.

        Raises:
            ValueError: they are not whole.
        """
        about, arrays = stored_arrays(folder, _FORMAT, "features")
        self.fields, self._dtype = [Field(**one) for one in about["fields"]], str(about["dtype"])
        self._offsets, self.keys = arrays["offsets"], [key.tobytes() for key in arrays["keys"]]
        self._arrays = [arrays[str(i)] for i in range(len(self.fields))]
        self.folder = folder
        mark_used(folder)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def batch(self, indices: Sequence[int], attention_mask: Tensor) -> dict[str, Tensor]:
        """The fields of some rows, padded with zeros as the mask (B, T) is, by name."""
        real = attention_mask.bool()
        found = {}
        for field, array in zip(self.fields, self._arrays, strict=True):
            if field.form == "tokens":
                rows = [array[self._offsets[i] : self._offsets[i + 1]] for i in indices]
                values = torch.zeros(*real.shape, field.width, device=real.device)
                values[real] = unpacked(np.concatenate(rows), self._dtype).to(real.device)
            else:
                values = unpacked(array[list(indices)], self._dtype).to(real.device)
                if field.form == "first":
                    values = torch.nn.functional.pad(values[:, None], (0, 0, 0, real.shape[1] - 1))
            found[field.name] = values
        return found


class TrunkCache(FolderCache):
    """A folder of features, bounded in size.

    Args:
        directory: holds them, each data set and model in a folder of its own.
        max_bytes: what all of them may take; those that were not used for longest make room for new ones.
    """

    marker = ABOUT
    holds = "the frozen model's outputs"
    fix = "raise `cache_gigabytes`, or leave it with `cache_trunk: false`"

    def __init__(self, directory: str | Path, max_bytes: int = 10 << 30) -> None:
        super().__init__(directory, max_bytes)


def cached_features(
    model: Any,
    split_point: str,
    encoded_dataset: Sequence[Mapping[str, Any]],
    batch_size: int = 64,
    *,
    cache: TrunkCache,
    collator: Collator,
    dtype: str = "float32",
    keep: Collection[Path] = (),
) -> Features:
    """The outputs of a model's frozen part for all rows, computed or found on disk.

    They are found again by content: frozen weights, every input of every batch, split point, number format and what
    the trained part reads. So epochs, seeds and settings of the trained part share them. What is damaged is computed
    again.

    Args:
        model: a transformers model; what runs up to the split point must be frozen.
        split_point: name of the module whose output is stored; see `head_split`.
        encoded_dataset: rows that the collator takes, in their order.
        batch_size: rows of one pass.
        cache: where they are kept.
        collator: rows -> a padded batch with `input_ids` and `attention_mask`, both (B, T).
        dtype: float32 or bfloat16.
        keep: folders of features that are needed together with these, and make no room for them.

    Raises:
        ValueError: a trained parameter runs before the split point, or its output has no known form.
        WorkspaceError: the cache is too small or can't be written.
    """
    check_dtype(dtype)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = weights_fingerprint(model, lambda name: name not in trained)
    if not len(encoded_dataset):
        raise ValueError("there are no rows to compute features of")
    order = _by_length(encoded_dataset)
    batches = partial(_batches, encoded_dataset, order, batch_size, collator)
    fed = [_fed(batch) for batch in batches()]
    rest = batches()
    first = next(rest)
    fields = read_fields(model, split_point, first)
    read = [f"{field.name} {field.form} {field.width}" for field in fields]
    name = identity([str(_FORMAT), frozen, split_point, dtype, *read, *(one.key for one in fed)])
    folder = cache.directory / name
    try:
        return Features(folder)
    except ValueError as error:
        tell_of_damage(folder, error)
    keys = _in_place(order, [key for one in fed for key in one.rows])
    logger.info("computing the frozen model's outputs for %d rows", len(keys))
    offsets = np.cumsum([0, *_in_place(order, [length for one in fed for length in one.lengths])])
    lengths = [int(offsets[-1]) if field.form == "tokens" else len(keys) for field in fields]
    needed = sum(n * field.width * np.dtype(STORED[dtype]).itemsize for n, field in zip(lengths, fields, strict=True))
    cache.make_room(needed + offsets.nbytes + KEY_BYTES * len(keys), keep)
    about = {"format": _FORMAT, "dtype": dtype, "lengths": lengths, "fields": [vars(field) for field in fields]}
    with writing_arrays(folder, about) as writer:
        shapes = [(n, field.width) for n, field in zip(lengths, fields, strict=True)]
        arrays = [writer.table(str(i), shape, dtype) for i, shape in enumerate(shapes)]
        _fill(model, split_point, itertools.chain([first], rest), order, offsets, fields, arrays, dtype)
        writer.keep("offsets", offsets)
        writer.keep("keys", np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES))
    return Features(folder)


@dataclass(frozen=True)
class _Fed:
    key: str
    rows: list[bytes]
    lengths: list[int]


def _fed(batch: dict[str, Tensor]) -> _Fed:
    rows = row_keys(batch)
    if rows is None:
        raise ValueError("the rows' inputs can't be told apart: a batch needs input_ids and an attention_mask (B, T)")
    return _Fed(batch_key(batch), rows, batch["attention_mask"].bool().sum(1).tolist())


def _by_length(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """0-based indices of the rows, the longest first, so that little of a batch is padding."""
    columns = getattr(rows, "column_names", ())
    lengths = rows["length"][:] if "length" in columns else [len(row["input_ids"]) for row in rows]  # type: ignore[call-overload]
    order: list[int] = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return order


def _in_place(order: list[int], values: list[T]) -> list[T]:
    """What was found of the rows in this order, in the order of the rows."""
    found = dict(zip(order, values, strict=True))
    return [found[place] for place in range(len(order))]


def _batches(
    rows: Sequence[Mapping[str, Any]], order: list[int], batch_size: int, collator: Collator
) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(rows), batch_size):
        places = order[start : start + batch_size]
        # A `datasets.Dataset` gives rows together in a fraction of the time that it takes one by one.
        yield collator(rows.__getitems__(places) if hasattr(rows, "__getitems__") else [rows[i] for i in places])


def _fill(
    model: Any,
    split_point: str,
    batches: Iterable[dict[str, Tensor]],
    order: list[int],
    offsets: np.ndarray,
    fields: list[Field],
    arrays: list[np.ndarray],
    dtype: str,
) -> None:
    done = 0
    for batch in batches:
        with torch.no_grad():
            output = output_of(model, split_point, batch)
        real = batch["attention_mask"].bool()
        places = order[done : done + len(real)]
        done += len(real)
        for field, array in zip(fields, arrays, strict=True):
            values = tensor_of(output, field.name)
            if field.form == "tokens":
                ends = np.cumsum(real.sum(1).tolist())
                for place, part in zip(places, np.split(packed(values[real], dtype), ends[:-1]), strict=True):
                    array[offsets[place] : offsets[place + 1]] = part
            else:
                array[places] = packed(values[:, 0] if field.form == "first" else values, dtype)


def read_fields(model: Any, split_point: str, batch: dict[str, Tensor]) -> list[Field]:
    """What the rest of the model reads of the split point's output, seen from gradients on one batch.

    Raises:
        ValueError: a trained parameter runs before the split point, nothing of the output is read, or the model
            finds answers.
    """
    module = model.get_submodule(split_point)
    leaves: dict[str, Tensor] = {}

    def cut(_module: nn.Module, _args: Any, output: Any) -> Any:
        for name in names_of(output):
            value = tensor_of(output, name)
            if value.requires_grad:
                raise ValueError(f"a trained parameter runs before the split point {split_point!r}")
            leaves[name] = value.detach().clone().requires_grad_()
        return with_tensors(output, leaves)

    handle = module.register_forward_hook(cut)
    try:
        with evaluating(model), torch.enable_grad():
            outputs = model(**{k: v for k, v in batch.items() if k not in TARGETS})
    finally:
        handle.remove()
    if "logits" not in outputs:
        raise ValueError(
            "only logits can be trained on features: answers are scored against padding, which is not kept"
        )
    scores = outputs.logits
    weights = torch.linspace(1, 2, scores.numel(), device=scores.device).view_as(scores)
    found = torch.autograd.grad((scores * weights).sum(), list(leaves.values()), allow_unused=True)
    fields = []
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        if gradient is not None and gradient.any():
            only_first = leaf.ndim == 3 and leaf.shape[1] > 1 and not gradient[:, 1:].any()
            form = "row" if leaf.ndim == 2 else "first" if only_first else "tokens"
            fields.append(Field(name, form, leaf.shape[-1]))
    if not fields:
        raise ValueError(f"nothing that {split_point!r} gives is read by the rest of the model")
    return fields
