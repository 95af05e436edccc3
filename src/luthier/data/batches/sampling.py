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
        processes: how many share the rows out, each with `batch_size` of them in one pass; together they have the
            order of one process with that many times the batch.
        process: the number of this one, from 0. Where a last pass has fewer rows than processes, one without any gets
            `len(lengths) + i`, which is row i and must not count.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        if batch_size < 1 or accumulation < 1:
            raise ValueError("batch_size and accumulation must be positive")
        self.pass_size, self.processes, self.process = batch_size * processes, processes, process
        self.lengths = torch.as_tensor(list(lengths), dtype=torch.int64)
        self.step_size = self.pass_size * accumulation
        self.seed = seed
        self.epoch = 0
        self._start = 0
        self._done = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.pass_size)
        return whole * self.pass_size // self.processes + len(self._own(list(range(rest))))

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
        for index in self.share(self.epoch)[self._done :]:
            self._done += 1
            yield index
        self._done = 0

    def share(self, epoch: int) -> list[int]:
        """The indices of this process in the order of an epoch."""
        order = self.order(epoch)
        if self.processes == 1:
            return order
        passes = (order[start : start + self.pass_size] for start in range(0, len(order), self.pass_size))
        return [index for one in passes for index in self._own(one)]

    def _own(self, rows: list[int]) -> list[int]:
        """What this process gets of the rows of one pass."""
        start, end = (len(rows) * number // self.processes for number in (self.process, self.process + 1))
        return rows[start:end] or [len(self.lengths) + row for row in rows[:1]]

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
