"""One frozen model, any number of task prefixes, one fixed representation of a text.

Source: Huang et al., Findings of EMNLP 2023. Shapes: N texts, D width of a representation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor

from luthier.errors import ModelError
from luthier.models.settings import ModelSettings
from luthier.representing.base import FrozenBase, check_name
from luthier.representing.combining import Combination
from luthier.representing.head_set import check_known
from luthier.representing.representation import Combine, PrefixMark, Representation, TextPooling
from luthier.representing.states import TaskPrefix
from luthier.representing.texts import Texts, batches_of, listed
from luthier.storage.arrays import evaluating

_FORMATS = ("float32", "float64", "float16")


class PrefixEncoder:
    """A frozen encoder that prefixes of tasks turn into one fixed representation of texts.

    Tasks are added, removed and replaced one by one, and no other prefix changes by a bit. They are always taken in
    the order of their names, so that a representation does not depend on the order in which they came.

    Args:
        base: the model, as in a recipe.
        combine: `joint` (one pass with all prefixes side by side), `mean` or `concat` (one pass a prefix).
        pooling: `first` or `last` token, or the `mean` over the text; None takes `last` for decoders, `first` for
            encoders whose texts start with a token for all of them, and `mean` for the rest.
        normalise: scale what a pass gives to length 1.
        max_length: longest text in tokens; None takes the model's own limit, or 512 where it has none.

    Raises:
        ModelError: the model can't be loaded, can't take prefixes, or takes no text of that length.
    """

    def __init__(
        self,
        base: ModelSettings | str,
        *,
        combine: Combine = "joint",
        pooling: TextPooling | None = None,
        normalise: bool = False,
        max_length: int | None = None,
    ) -> None:
        self._base = FrozenBase.load(base)
        self._prefixes: dict[str, TaskPrefix] = {}
        self._weights: dict[str, float] = {}
        self.combine: Combine = "joint"
        self.pooling: TextPooling = "first"
        self.normalise = False
        self.max_length = self._base.longest
        self.configure(
            combine=combine,
            pooling=pooling or self._base.trunk.pooling,
            normalise=normalise,
            max_length=max_length,
        )

    def configure(
        self,
        *,
        combine: Combine | None = None,
        pooling: TextPooling | None = None,
        normalise: bool | None = None,
        max_length: int | None = None,
    ) -> None:
        """Change how representations are made; None leaves a setting as it is. Heads of the old way are refused.

        Raises:
            ValueError: a value that is not known.
            ModelError: the model takes no text of that length.
        """
        for name, value, known in (("combine", combine, Combine), ("pooling", pooling, TextPooling)):
            if value is not None and value not in get_args(known):
                raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(get_args(known))}")
        limit = self._base.limit
        if max_length is not None and (max_length < 1 or (limit is not None and max_length > limit)):
            raise ModelError(
                f"max_length is {max_length}, but the model takes texts of 1 to {limit or 'any number of'} tokens",
                where=self._base.settings.reference,
            )
        self.combine = combine or self.combine
        self.pooling = pooling or self.pooling
        self.normalise = self.normalise if normalise is None else normalise
        self.max_length = max_length or self.max_length

    @property
    def prefixes(self) -> Mapping[str, TaskPrefix]:
        """By task, in the order of the tasks' names."""
        return dict(sorted(self._prefixes.items()))

    @property
    def weights(self) -> Mapping[str, float]:
        """By task, in the order of the tasks' names."""
        return dict(sorted(self._weights.items()))

    @property
    def representation(self) -> Representation:
        """What the representations are made of."""
        marks = {
            task: PrefixMark(prefix.digest, self._weights[task])
            for task, prefix in self.prefixes.items()
            if self._weights[task]
        }
        base = self._base
        how = (self.combine, self.pooling, self.normalise, self.max_length)
        return Representation(base.card.base_fingerprint, base.dtype, *how, marks)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over base model, number format, prefixes, weights and settings: equal where vectors are equal."""
        return self.representation.fingerprint

    @property
    def width(self) -> int:
        """D."""
        return self._combination().width

    @property
    def passes(self) -> int:
        """Forward passes of the model that one text takes."""
        return self._combination().passes

    @property
    def base(self) -> FrozenBase:
        """The frozen model, its tokenizer and card."""
        return self._base

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device."""
        self._base.model.to(device)
        return self

    def add(self, name: str, source: str | Path | Any, weight: float | None = None) -> None:
        """Add a task.

        Args:
            name: of the task.
            source: a folder that holds an adapter of the method task_prefix (an artefact, a stage or a run), the file
                of a prefix, or a PEFT model on the same base.
            weight: None takes the adapter's own, which is 1 unless it was set. In `joint` its logarithm is added to
                the scores of the prefix, in `mean` it weighs the mean, in `concat` it scales the block. A prefix of
                weight 0 counts as removed.

        Raises:
            ModelError: there is such a task already, the source holds no prefix, is damaged, or has another base.
            ValueError: the weight is negative or not finite.
        """
        check_name(name, "task")
        if name in self._prefixes:
            raise ModelError(f"there is a task {name!r} already", fix="use replace, or another name")
        self._put(name, source, weight)

    def replace(self, name: str, source: str | Path | Any, weight: float | None = None) -> None:
        """Put another prefix in the place of a task's; see `add`. None leaves the weight as it is."""
        check_known(name, self._prefixes, "task")
        self._put(name, source, self._weights[name] if weight is None else weight)

    def remove(self, name: str) -> None:
        """Take a task out.

        Raises:
            ModelError: there is no such task.
        """
        check_known(name, self._prefixes, "task")
        del self._prefixes[name], self._weights[name]

    def set_weight(self, name: str, weight: float) -> None:
        """Change the weight of a task; see `add`."""
        check_known(name, self._prefixes, "task")
        self._weights[name] = checked_weight(weight)

    def encode(
        self,
        texts: Texts,
        *,
        batch_size: int = 64,
        dtype: str = "float32",
        batched: bool = True,
        too_long: str = "truncate",
    ) -> np.ndarray:
        """Texts, or pairs of texts that are read together -> (N, D), in their order.

        Args:
            texts: N of them; a single string is one text.
            batch_size: texts in one forward pass.
            dtype: of the result: float32, float64 or float16.
            batched: let `mean` and `concat` run their passes as one, `batch_size` times the tasks wide.
            too_long: `truncate` cuts texts longer than `max_length` and logs how many; `error` refuses them.

        Raises:
            DataError: an entry is no text, or is too long and may not be cut.
            ValueError: an unknown dtype.
        """
        if dtype not in _FORMATS:
            raise ValueError(f"dtype is {dtype!r}, but must be one of {', '.join(_FORMATS)}")
        texts = listed(texts)
        found = np.empty((len(texts), self.width), dtype=dtype)
        for places, vectors in self.batches(texts, batch_size=batch_size, batched=batched, too_long=too_long):
            found[places] = vectors.cpu().numpy()
        return found

    def batches(
        self, texts: Texts, *, batch_size: int = 64, batched: bool = True, too_long: str = "truncate"
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """What `encode` computes, batch by batch: places of B texts, and their representations (B, D)."""
        combination = self._combination(batched)
        for places, batch in self._tokens(texts, batch_size, too_long):
            with evaluating(self._base.model):
                vectors = combination.vectors(batch)
            yield places, vectors

    def prefix_mass(self, texts: Texts, *, batch_size: int = 64) -> dict[str, np.ndarray]:
        """The share of its attention that a token of the texts gives to each prefix, layer by layer.

        Prefixes that were trained alone compete when they stand side by side, and leave less to the text. Under
        `mean` and `concat` each has a pass of its own.

        Returns:
            By task, (layers,) float64, averaged over heads, tokens and texts; 0 in layers where it has no prefix.
        """
        tasks, combination = list(self.representation.prefixes), self._combination()
        if not tasks:
            return {}
        with evaluating(self._base.model):
            shares = combination.shares(batch for _, batch in self._tokens(texts, batch_size, "truncate"))
        return dict(zip(tasks, shares.numpy(), strict=True))

    def _put(self, name: str, source: str | Path | Any, weight: float | None) -> None:
        given = None if weight is None else checked_weight(weight)
        prefix, own = self._base.prefix_from(source)
        self._prefixes[name], self._weights[name] = prefix, checked_weight(own) if given is None else given

    def _combination(self, batched: bool = True) -> Combination:
        return Combination(self._base, self.representation, self._prefixes, batched=batched)

    def _tokens(self, texts: Texts, batch_size: int, too_long: str) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
        options = {"max_length": self.max_length, "too_long": too_long, "batch_size": batch_size}
        return batches_of(texts, self._base.tokenizer, **options)  # type: ignore[arg-type]


def checked_weight(weight: float) -> float:
    """Raise ValueError for a weight that is negative or not finite."""
    if not 0 <= weight < float("inf"):
        raise ValueError(f"a weight is {weight}, but must be a number from 0 on")
    return float(weight)
