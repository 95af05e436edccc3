"""What a fixed representation is made of: what has to be equal for two encoders to give the same vectors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from pydantic import ConfigDict

from luthier.storage.keys import digest_of

Combine = Literal["joint", "mean", "concat"]
TextPooling = Literal["first", "mean", "last"]
_TOLD = {
    "base": "another base model",
    "dtype": "weights in another number format",
    "combine": "another way of combining",
    "pooling": "another pooling",
    "normalise": "another choice of `normalise`",
    "max_length": "another longest text",
}


@dataclass(frozen=True)
class PrefixMark:
    """One prefix in a combination: SHA-256 of its tensors, and its weight."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    sha256: str
    weight: float


@dataclass(frozen=True)
class Representation:
    """The identity of a fixed representation. Prefixes of weight 0 are no part of it.

    Attributes:
        base: fingerprint of the base model's files.
        dtype: number format of its weights in memory.
        combine, pooling, normalise, max_length: as in `SharedEncoder`.
        prefixes: by task.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    base: str
    dtype: str
    combine: Combine
    pooling: TextPooling
    normalise: bool
    max_length: int
    prefixes: dict[str, PrefixMark] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over all of it."""
        return digest_of(asdict(self))

    def differences(self, now: Representation) -> list[str]:
        """What of `now` is not as it is here, each as part of a sentence; empty where they are the same."""
        told = []
        for name, words in _TOLD.items():
            then, current = _said(self, name), _said(now, name)
            if then != current:
                told.append(f"{words} ({then} then, {current} now)")
        for task in sorted({*self.prefixes, *now.prefixes}):
            was, is_now = self.prefixes.get(task), now.prefixes.get(task)
            if was is None:
                told.append(f"the task {task!r} was added")
            elif is_now is None:
                told.append(f"the task {task!r} was removed")
            elif was.sha256 != is_now.sha256:
                told.append(f"the prefix of the task {task!r} was replaced")
            elif was.weight != is_now.weight:
                told.append(f"the weight of the task {task!r} was {was.weight:g} and is {is_now.weight:g}")
        return told


def _said(representation: Representation, name: str) -> str:
    value = str(getattr(representation, name))
    return value[:12] if name == "base" else value
