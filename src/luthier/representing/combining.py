"""The three ways in which prefixes make one representation of a text.

With z(x; P) the pooled last hidden state under the prefix P, and w_s the weight of task s:

    joint    one pass with all prefixes side by side: z(x; P_1, .., P_M), scores of P_s raised by log w_s      (B, D)
    mean     one pass a prefix: sum_s w_s z(x; P_s) / sum_s w_s                                                (B, D)
    concat   one pass a prefix: [w_1 z(x; P_1); ..; w_M z(x; P_M)]                                             (B, M D)

Without any prefix all three are z(x) of the base. Source: stage 2 of Huang et al., Findings of EMNLP 2023; `joint` is
the only one that takes a single pass.

Shapes: B texts, T tokens, M prefixes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.representing.base import FrozenBase
from luthier.representing.representation import Representation
from luthier.representing.states import TaskPrefix

Batch = Mapping[str, Tensor]


class Combination:
    """Prefixes and how they are combined.

    Args:
        base: the frozen model.
        representation: how; its prefixes say which, and their weights.
        prefixes: by task.
        batched: run the passes of `mean` and `concat` as one, with the batch repeated, where prefixes have one form.
    """

    def __init__(
        self,
        base: FrozenBase,
        representation: Representation,
        prefixes: Mapping[str, TaskPrefix],
        *,
        batched: bool = True,
    ) -> None:
        self._base, self._how, self._batched = base, representation, batched
        self._prefixes = [prefixes[task] for task in representation.prefixes]
        self._weights = [mark.weight for mark in representation.prefixes.values()]

    @property
    def width(self) -> int:
        """Of a representation."""
        blocks = len(self._prefixes) if self._how.combine == "concat" else 1
        return self._base.trunk.width * max(blocks, 1)

    @property
    def passes(self) -> int:
        """Forward passes of the trunk that one text takes."""
        return max(len(self._prefixes), 1) if self._how.combine != "joint" else 1

    def vectors(self, batch: Batch) -> Tensor:
        """A batch -> (B, width)."""
        if not self._prefixes:
            return self._pooled(batch)
        if self._how.combine == "joint":
            with self._base.rack.side_by_side([*zip(self._prefixes, map(math.log, self._weights), strict=True)]):
                return self._pooled(batch)
        single = [z * w for z, w in zip(self._one_by_one(batch), self._weights, strict=True)]
        if self._how.combine == "concat":
            return torch.cat(single, dim=-1)
        return torch.stack(single).sum(0) / sum(self._weights)

    def shares(self, batches: Iterator[Batch]) -> Tensor:
        """(M, places) float64: the share of its attention that a text's token gives to each prefix, at each place.

        It is averaged over heads, tokens and texts. Under `joint` the prefixes compete in one pass; otherwise each
        has a pass of its own.
        """
        together = self._how.combine == "joint"
        logs = [math.log(w) if together else 0.0 for w in self._weights]
        weighted = [*zip(self._prefixes, logs, strict=True)]
        crews = [weighted] if together else [[one] for one in weighted]
        text: dict[str, Tensor] = {}
        totals: list[Tensor] = []
        for batch in batches:
            text["mask"] = batch["attention_mask"].to(self._base.model.device)
            for number, crew in enumerate(crews):
                rack = self._base.rack
                with rack.side_by_side(crew), rack.counting_shares(text, len(crew)) as sums:
                    self._pooled(batch)
                if number == len(totals):
                    totals.append(torch.zeros_like(sums))
                totals[number] += sums
        return torch.cat([sums[:, :-1] / sums[:, -1:].clamp(min=1) for sums in totals], dim=1).T

    def _one_by_one(self, batch: Batch) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for group in self._groups():
            prefixes = [self._prefixes[i] for i in group]
            texts = len(batch["input_ids"])
            repeated = {name: x.repeat(len(group), *[1] * (x.ndim - 1)) for name, x in batch.items()}
            with self._base.rack.one_each(prefixes, texts):
                found.update(zip(group, self._pooled(repeated).split(texts), strict=True))
        return [found[i] for i in range(len(self._prefixes))]

    def _groups(self) -> Sequence[list[int]]:
        order = range(len(self._prefixes))
        if not self._batched:
            return [[i] for i in order]
        forms = [repr(prefix.form) for prefix in self._prefixes]
        return [list(group) for _, group in groupby(sorted(order, key=forms.__getitem__), forms.__getitem__)]

    def _pooled(self, batch: Batch) -> Tensor:
        found = self._base.vectors(batch, self._how.pooling)
        return F.normalize(found, dim=-1) if self._how.normalise else found
