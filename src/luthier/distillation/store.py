"""A frozen teacher's outputs on all training rows, computed once: its likeliest tokens, on disk, found by content.

A shard holds some rows one after another. Its folder is named by a hash over the teacher's weights, how its outputs
are stored and everything that it was fed, so that other data, masks, labels or weights are other shards; inside, every
byte is under a seal, and every row under the key of its own inputs. Masked text has other inputs under every seed.

Shapes: R rows of a shard, P positions of them, K tokens that are kept at each.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.distillation.divergences import StoredRows
from luthier.errors import ModelError, TrainingError, WorkspaceError
from luthier.language_modeling.rows import predicted_positions, prediction_rows
from luthier.objectives.divergence import comparable_rows
from luthier.progress import track
from luthier.storage.arrays import identity
from luthier.storage.files import write_json
from luthier.storage.folder_cache import FolderCache, mark_used
from luthier.storage.hashing import cache_directory
from luthier.storage.sealed_folder import check_seal, tell_of_damage, whole_folder
from luthier.training.trunk.fed_rows import KEY_BYTES, row_keys

logger = logging.getLogger(__name__)
SHARD_ROWS = 2048
_FORMAT = "1"
Batch = dict[str, Tensor]


class TeacherCache(FolderCache):
    """Stored outputs of all teachers, bounded in size."""

    holds = "a shard of the teacher's outputs"
    fix = "raise `store.gigabytes`, lower `store.top_k`, or leave `store` out so that the teacher runs in every step"


@dataclass(frozen=True)
class Kept:
    """How a teacher's outputs are stored.

    Attributes:
        teacher: fingerprint of the teacher and of how it is loaded.
        top_k: K.
        temperature: what logits are divided by.
        everywhere: whether every token has its row, and not only those with a label.
        shifted: whether position t predicts token t + 1.
        language: whether logits come of a language model's hidden vectors.
    """

    teacher: str
    top_k: int
    temperature: float
    everywhere: bool
    shifted: bool
    language: bool

    def wanted(self, batch: Batch) -> Tensor | None:
        """(B, T) labels whose positions are compared; None where a row has one output."""
        labels = batch.get("labels")
        if labels is None or labels.ndim != 2:
            return None
        return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100) if self.everywhere else labels

    def keys(self, batch: Batch) -> list[bytes]:
        """The key of each row of a batch: of its inputs, and of the positions that are compared.

        Raises:
            ModelError: rows of this task can't be told apart.
        """
        wanted = self.wanted(batch)
        inputs = {k: v.cpu() for k, v in batch.items() if k != "row"}
        counted = {} if wanted is None else {"counted": predicted_positions(wanted.cpu(), shifted=self.shifted)}
        found = row_keys(inputs | counted, from_first=True)
        if found is None:
            raise ModelError("outputs of this task can't be stored", fix="leave `store` out")
        return found

    def counts(self, batch: Batch) -> list[int]:
        """How many positions each row of a batch has."""
        wanted = self.wanted(batch)
        if wanted is None:
            return [1] * len(batch["input_ids"])
        counts: list[int] = predicted_positions(wanted, shifted=self.shifted).sum(1).tolist()
        return counts


class StoredTeacher:
    """What a teacher says at every position of the rows that it was run on.

    Args:
        kept: how.
        folders: of the shards.

    Raises:
        ValueError: a shard is not whole, or is not what its name says.
    """

    def __init__(self, kept: Kept, folders: Sequence[Path]) -> None:
        self.kept = kept
        self.shards = [_Shard(folder) for folder in folders]
        self._places = {key: (i, r) for i, shard in enumerate(self.shards) for r, key in enumerate(shard.keys)}

    def rows(self, batch: Batch, device: torch.device) -> StoredRows:
        """The stored rows of a batch, in the order of texts and positions.

        Raises:
            TrainingError: a row was never shown to the teacher.
        """
        parts = []
        for key in self.kept.keys(batch):
            if key not in self._places:
                raise TrainingError(
                    "a training row is not among those whose teacher's outputs are stored",
                    fix="leave `store` out, so that the teacher runs in every step",
                )
            shard, row = self._places[key]
            parts.append(self.shards[shard].row(row))
        log_p, tokens, rest = (np.concatenate(part) for part in zip(*parts, strict=True))
        return StoredRows(
            torch.from_numpy(log_p).to(device),
            torch.from_numpy(tokens.astype(np.int64)).to(device),
            torch.from_numpy(rest).to(device),
        )

    @property
    def left_out(self) -> dict[str, float]:
        """What is lost against whole distributions: the mean and the largest probability of all that was left out at a
        position, and the mean entropy in nats of what is inside it."""
        told, weights = [shard.about["left_out"] for shard in self.shards], [len(s.rest) for s in self.shards]
        total = max(1, sum(weights))
        mean = {k: sum(w * t[k] for t, w in zip(told, weights, strict=True)) / total for k in ("mean", "entropy")}
        return {**mean, "largest": max((one["largest"] for one in told), default=0.0), "positions": float(total)}


class _Shard:
    def __init__(self, folder: Path) -> None:
        try:
            check_seal(folder)
            self.about = json.loads((folder / "about.json").read_text(encoding="utf8"))
            self.keys = [key.tobytes() for key in np.load(folder / "keys.npy")]
            self._offsets = np.load(folder / "offsets.npy")
            self._log_p, self._tokens, self.rest = (_mapped(folder / f"{n}.npy") for n in ("log_p", "tokens", "rest"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} holds no outputs of a teacher: {error}") from error
        if self.about["name"] != folder.name:
            raise ValueError(f"{folder} holds outputs of another teacher, or of other rows")
        mark_used(folder)

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        piece = slice(self._offsets[number], self._offsets[number + 1])
        return np.array(self._log_p[piece]), np.array(self._tokens[piece]), np.array(self.rest[piece])


def _mapped(path: Path) -> np.ndarray:
    """An array's file as memory, with no file open behind it: `np.load` keeps one open for each that it maps, and a
    process may only have some hundreds. What another run deletes stays readable."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    content: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
    found: np.ndarray = torch.empty(0, dtype=torch.uint8).set_(content).numpy()[start:].view(dtype).reshape(shape)
    return found


def stored_outputs(
    kept: Kept, batches: Iterable[Batch], teacher: Callable[[], Any], *, most_bytes: int, where: Path | None = None
) -> StoredTeacher:
    """The teacher's outputs on all rows, found on disk or computed now.

    Args:
        kept: how they are stored.
        batches: of all rows, collated; the same rows in the same batches name the same shards.
        teacher: loads it, onto the device that it runs on; called once, and only where a shard is missing or damaged.
        most_bytes: what all stored outputs may take.
        where: of the shards; default the user's cache.

    Raises:
        WorkspaceError: the shards don't fit, or can't be written.
    """
    cache = TeacherCache(where or cache_directory() / "teachers", most_bytes)
    folders: list[Path] = []
    model: Any = None
    with track("teacher outputs") as bar:
        for number, some in enumerate(_shards(batches)):
            keys = [key for batch in some for key in kept.keys(batch)]
            folder = cache.directory / _name(kept, keys)
            try:
                _Shard(folder)
            except ValueError as error:
                tell_of_damage(folder, error)
                model = teacher() if model is None else model
                arrays, left_out = _computed(kept, some, keys, model)
                cache.make_room(sum(array.nbytes for array in arrays.values()), folders)
                _write(folder, kept, arrays, left_out)
            folders.append(folder)
            bar.update(0, f"shard {number + 1}")
    try:
        return StoredTeacher(kept, folders)
    except ValueError as error:
        raise WorkspaceError(
            f"stored outputs of the teacher did not stay until all were there: {error}",
            where=str(cache.directory),
            fix="start again; where other runs store outputs meanwhile, raise `store.gigabytes` of all of them",
        ) from error


def _shards(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Batches together, of at least `SHARD_ROWS` rows."""
    some: list[Batch] = []
    for batch in batches:
        some.append(batch)
        if sum(len(one["input_ids"]) for one in some) >= SHARD_ROWS:
            yield some
            some = []
    if some:
        yield some


def _name(kept: Kept, keys: Sequence[bytes]) -> str:
    return identity([_FORMAT, *(f"{k} {v}" for k, v in sorted(vars(kept).items())), *(key.hex() for key in keys)])


def _computed(
    kept: Kept, batches: list[Batch], keys: list[bytes], model: Any
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What a shard holds, and what is lost in it."""
    found = [_of_batch(kept, model, batch) for batch in batches]
    log_p, tokens, rest = (torch.cat([getattr(one, n) for one in found]) for n in ("log_p", "tokens", "log_rest"))
    entropy = torch.cat([one.entropy for one in found])
    counts = [count for batch in batches for count in kept.counts(batch)]
    if sum(counts) != len(log_p):
        raise ModelError(
            f"the teacher gives {len(log_p)} outputs where {sum(counts)} are compared",
            fix="leave `store` out for a teacher with a prompt in front of its text",
        )
    narrow = np.uint16 if not tokens.numel() or int(tokens.max()) < 1 << 16 else np.int32
    arrays = {
        "log_p": log_p.numpy(),
        "tokens": tokens.numpy().astype(narrow),
        "rest": rest.numpy(),
        "offsets": np.cumsum([0, *counts]),
        "keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES),
    }
    left_out = {"mean": 0.0, "largest": 0.0, "entropy": 0.0}
    if len(rest):
        mass = rest.exp()
        left_out = {"mean": float(mass.mean()), "largest": float(mass.max()), "entropy": float(entropy.mean())}
    return arrays, left_out


def _write(folder: Path, kept: Kept, arrays: dict[str, np.ndarray], left_out: dict[str, float]) -> None:
    with whole_folder(folder) as scratch:
        for name, array in arrays.items():
            np.save(scratch / f"{name}.npy", array)
        write_json(scratch / "about.json", {"name": folder.name, "left_out": left_out, **vars(kept)})


@dataclass(frozen=True)
class _Outputs:
    log_p: Tensor
    tokens: Tensor
    log_rest: Tensor
    entropy: Tensor


def _of_batch(kept: Kept, model: Any, batch: Batch) -> _Outputs:
    """The likeliest tokens at all positions of a batch, on the CPU in float32, some rows of logits at a time."""
    device = next(model.parameters()).device
    inputs = {k: v.to(device) for k, v in batch.items() if k not in ("labels", "row")}
    wanted = kept.wanted(batch)
    with torch.no_grad():
        if kept.language and wanted is not None:
            rows = prediction_rows(model, wanted.to(device), shifted=kept.shifted, inputs=inputs)
            size = max(1, (1 << 22) // len(rows.weight))
            pieces = [
                _likeliest(kept, _projected(rows.hidden[i : i + size], rows)) for i in range(0, len(rows.hidden), size)
            ]
        else:
            logits = model(**inputs).logits
            pieces = [_likeliest(kept, comparable_rows(logits, wanted, shifted=kept.shifted))]
    if not pieces:
        empty = torch.zeros(0, kept.top_k)
        return _Outputs(empty, empty.long(), torch.zeros(0), torch.zeros(0))
    return _Outputs(
        *(torch.cat([getattr(p, n) for p in pieces]).cpu() for n in ("log_p", "tokens", "log_rest", "entropy"))
    )


def _projected(hidden: Tensor, rows: Any) -> Tensor:
    return torch.nn.functional.linear(hidden, rows.weight, rows.bias).float()


def _likeliest(kept: Kept, logits: Tensor) -> _Outputs:
    if logits.shape[1] == 1:
        zeros = torch.zeros(len(logits), device=logits.device)
        return _Outputs(logits, torch.zeros_like(logits, dtype=torch.long), zeros - torch.inf, zeros)
    log_p = (logits / kept.temperature).log_softmax(-1)
    top = log_p.topk(min(kept.top_k, log_p.shape[1]), dim=-1)
    others = log_p.scatter(1, top.indices, -torch.inf)
    rest = others.logsumexp(-1)
    inside = others - rest[:, None]
    shares = torch.where(inside.isfinite(), inside.exp() * inside, torch.zeros_like(inside)).sum(-1)
    entropy = torch.where(rest.isfinite(), -rest.exp() * shares, torch.zeros_like(rest))
    return _Outputs(top.values, top.indices, rest, entropy)


def some_of(stream: Iterable[dict[str, Any]], rows: int, size: int, collate: Callable[..., Batch]) -> Iterator[Batch]:
    """The first rows of a stream in batches."""
    there = iter(islice(stream, rows))
    while some := list(islice(there, size)):
        yield collate(some)
