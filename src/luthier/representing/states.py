"""The keys and values of one task's prefix, apart from any model, and the file that holds them.

The file is safetensors with, for every attention module that has a prefix, the tensors `<stack>.<layer>.<site>.key`
and `<stack>.<layer>.<site>.value`, float32, each (L, G d): L prefix columns, G key/value heads of width d, laid out as
the module's own key and value projections give them, after any rotary embedding. `<stack>` is `layers`, or `encoder`
or `decoder` in an encoder-decoder; `<site>` is `self` or `cross`. Its metadata has one entry, `luthier`, a JSON object
with `format`, `task`, `base_fingerprint` (of the model that it was trained on), `length` (L) and `sha256` (over the
tensors).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.errors import ModelError
from luthier.models.layers.blocks import Block
from luthier.models.tensors import check_safetensors
from luthier.representing.tuner import PARTS
from luthier.secrets import redact_values
from luthier.storage.files import reporting_failed_writes

_FORMAT = 1
_ENTRY = "luthier"
_IN_A_MODEL = re.compile(rf"(?P<path>.*)\.task_prefix\.{PARTS}\.(?P<site>self|cross)\.(?P<leaf>.+)")
KeysAndValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class TaskPrefix:
    """One task's prefix.

    Attributes:
        states: keys and values, each (L, G d) float32 on the CPU, by place (`place_name`).
        digest: SHA-256 over them.
    """

    states: Mapping[str, KeysAndValues]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        kept = {
            place: tuple(x.detach().cpu().float().contiguous() for x in pair) for place, pair in self.states.items()
        }
        object.__setattr__(self, "states", dict(sorted(kept.items())))
        object.__setattr__(self, "digest", _digest(self.tensors()))

    @property
    def length(self) -> int:
        """L."""
        return len(next(iter(self.states.values()))[0])

    @property
    def form(self) -> tuple[Any, ...]:
        """Places and shapes; prefixes of one form can act in one batch."""
        return tuple((place, pair[0].shape) for place, pair in self.states.items())

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return sum(x.numel() for pair in self.states.values() for x in pair)

    def tensors(self) -> dict[str, Tensor]:
        """Keys and values by name, as in the file."""
        return {
            f"{place}.{role}": x
            for place, pair in self.states.items()
            for role, x in zip(("key", "value"), pair, strict=True)
        }

    def without_decoder(self) -> TaskPrefix:
        """The part that stands in the encoder of an encoder-decoder; the whole prefix in any other model.

        Raises:
            ModelError: nothing stands in the encoder.
        """
        kept = {place: pair for place, pair in self.states.items() if not place.startswith("decoder.")}
        if not kept:
            raise ModelError(
                "the prefix stands in the decoder alone, and texts are represented by the encoder",
                fix="train it with `sites` that name the encoder",
            )
        return TaskPrefix(kept)

    def write(self, path: Path, task: str, base_fingerprint: str) -> None:
        """Write the file.

        Raises:
            WorkspaceError: the disk is full or can't be written.
        """
        from safetensors.torch import save_file

        about = {
            "format": _FORMAT,
            "task": task,
            "base_fingerprint": base_fingerprint,
            "length": self.length,
            "sha256": self.digest,
        }
        # One entry, since the order of several is not fixed, and equal prefixes should be equal files.
        with reporting_failed_writes(path):
            save_file(self.tensors(), path, metadata={_ENTRY: json.dumps(redact_values(about), sort_keys=True)})

    @classmethod
    def read(cls, path: Path) -> tuple[TaskPrefix, dict[str, Any]]:
        """The prefix in a file, and what its metadata says.

        Raises:
            ModelError: the file is damaged, or holds no task prefix.
        """
        from safetensors import safe_open

        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            about = _about((file.metadata() or {}).get(_ENTRY))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about is None or not tensors:
            raise ModelError("the file holds no task prefix", where=str(path))
        if about["format"] > _FORMAT:
            raise ModelError(
                f"the prefix was saved by a newer Luthier (format {about['format']})",
                where=str(path),
                fix="pip install -U luthier",
            )
        if _digest(tensors) != about["sha256"]:
            raise ModelError(
                "the prefix does not match the SHA-256 in its header",
                where=str(path),
                fix="the file changed after it was saved: restore it from a copy, or train the prefix again",
            )
        places = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
        return cls({place: (tensors[f"{place}.key"], tensors[f"{place}.value"]) for place in places}), about


def prefix_of_adapter(state: Mapping[str, Tensor], encoder_decoder: bool) -> TaskPrefix:
    """The prefix in a saved adapter; a prefix that a network makes is folded.

    Args:
        state: its tensors by name, as PEFT saves them; those of a task head are ignored.
        encoder_decoder: whether the adapter belongs to an encoder-decoder.

    Raises:
        ModelError: there is none.
    """
    shared: dict[str, dict[str, Tensor]] = {}
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if (match := _IN_A_MODEL.fullmatch(name)) is not None:
            key = f"{match['path']}:{match['site']}"
            of_stack = match["leaf"].startswith(("table", "hidden."))
            (shared if of_stack else layers).setdefault(key, {})[match["leaf"]] = tensor.float()
    states = {}
    for key, leaves in layers.items():
        path, _, site = key.rpartition(":")
        half = "layers"
        if encoder_decoder:
            half = "decoder" if "decoder" in path.split(".") else "encoder"
        index = path.rpartition(".")[2]
        states[f"{half}.{index}.{site}"] = (
            (leaves["key"], leaves["value"]) if "key" in leaves else _folded(leaves, _shared_half(shared, path, site))
        )
    if not states:
        raise ModelError("the adapter holds no task prefix", fix="train it with the method task_prefix")
    return TaskPrefix(states)


def place_name(block: Block, site: str) -> str:
    """The name of an attention module's place: `layers.3.self`, `encoder.0.self`, `decoder.5.cross`."""
    return f"{block.stack or 'layers'}.{block.index}.{site}"


def _shared_half(shared: dict[str, dict[str, Tensor]], path: str, site: str) -> dict[str, Tensor]:
    above = [key for key in shared if key.endswith(f":{site}") and f"{path}.".startswith(f"{key.rpartition(':')[0]}.")]
    return shared[max(above, key=len)]


def _folded(leaves: dict[str, Tensor], shared: dict[str, Tensor]) -> KeysAndValues:
    hidden = torch.tanh(torch.nn.functional.linear(shared["table"], shared["hidden.weight"], shared["hidden.bias"]))
    key, value = torch.nn.functional.linear(hidden, leaves["up.weight"], leaves["up.bias"]).chunk(2, dim=-1)
    return key, value


def _about(text: str | None) -> dict[str, Any] | None:
    try:
        about = json.loads(text or "")
        whole = isinstance(about["format"], int) and all(isinstance(about[k], str) for k in _TEXTS)
    except (ValueError, KeyError, TypeError):
        return None
    return about if whole else None


_TEXTS = ("task", "base_fingerprint", "sha256")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
