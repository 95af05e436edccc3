"""The order in which training examples are seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

BATCHES_SORTED_TOGETHER = 50


class LengthBucketSampler(Sampler[int]):
    """Indices in an order where examples of one optimiser step are of similar length.

    The order depends on the lengths, the seed, the epoch and `batch_size * accumulation` alone, so 8 examples at once,
    4 in two passes and 1 in eight give every step the same examples in the same order. Steps come in random order;
    only a last, incomplete one stays last.

    Args:
        lengths: tokens of every example.
        batch_size: examples in one pass.
        accumulation: passes in one optimiser step.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, accumulation: int = 1, seed: int = 0) -> None:
        if batch_size < 1 or accumulation < 1:
            raise ValueError("batch_size and accumulation must be positive")
        self.lengths = torch.as_tensor(list(lengths), dtype=torch.int64)
        self.step_size = batch_size * accumulation
        self.seed = seed
        self.epoch = 0
        self._start = 0
        self._done = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, and start at its beginning."""
        if epoch != self.epoch:
            self.epoch, self._start, self._done = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Seed, epoch, and how many indices of it were given out."""
        return {"seed": self.seed, "epoch": self.epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: the next pass over the sampler gives the rest of its epoch."""
        self.seed, self.epoch, self._start = int(state["seed"]), int(state["epoch"]), int(state["done"])
        self._done = self._start

    def __iter__(self) -> Iterator[int]:
        self._done, self._start = self._start, 0
        for index in self.order(self.epoch)[self._done :]:
            self._done += 1
            yield index
        self._done = 0

    def order(self, epoch: int) -> list[int]:
        """All indices in the order of an epoch."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % (1 << 63))
        shuffled = torch.randperm(len(self.lengths), generator=generator)
        steps: list[Any] = []
        for bucket in shuffled.split(self.step_size * BATCHES_SORTED_TOGETHER):
            by_length = bucket[torch.argsort(self.lengths[bucket], descending=True, stable=True)]
            steps += by_length.split(self.step_size)
        rest = [steps.pop()] if steps and len(steps[-1]) < self.step_size else []
        mixed = [steps[i] for i in torch.randperm(len(steps), generator=generator)] + rest
        return torch.cat(mixed).tolist() if mixed else []
