"""Puts the prefixes of tasks in front of the keys and values of a frozen trunk, for the length of a block.

Shapes: B texts, T tokens, M prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from luthier.errors import ModelError
from luthier.methods.prefix_table import by_heads
from luthier.models.layers.attached import placement
from luthier.models.layers.attention_prefix import KeyValuePrefix, add_provider, observe
from luthier.models.layers.blocks import Attention, find_blocks
from luthier.models.layers.serving import serve_prefixes
from luthier.representing.states import TaskPrefix, place_name


class PrefixRack:
    """The places of a trunk where prefixes can stand. Outside of its blocks the trunk is as it was.

    Args:
        model: with the trunk; its attention is served from now on.

    Raises:
        ValueError: the layers of the model are not found, or its attention can't take prefixes.
    """

    def __init__(self, model: nn.Module) -> None:
        blocks = [block for block in find_blocks(model) if block.stack != "decoder"]
        self._attentions: dict[str, Attention] = {
            place_name(block, site): attention for block in blocks for site, attention in block.attentions.items()
        }
        self._now: dict[str, list[KeyValuePrefix]] = {}
        self._owners: dict[str, list[int]] = {}
        serve_prefixes(model, [attention.module for attention in self._attentions.values()])
        for place, attention in self._attentions.items():
            add_provider(attention.module, partial(self._give, place))

    @property
    def places(self) -> list[str]:
        """Names of all places, from the first layer to the last."""
        return list(self._attentions)

    def check(self, prefix: TaskPrefix, where: str) -> None:
        """Refuse a prefix of another shape.

        Raises:
            ModelError: it names a place that the trunk lacks, or has keys of another width.
        """
        for place, (key, value) in prefix.states.items():
            attention = self._attentions.get(place)
            width = attention.key_value_heads * attention.head_width if attention is not None else 0
            if key.shape != (prefix.length, width) or value.shape != key.shape:
                has = f"keys of width {width} there" if width else "no such place"
                raise ModelError(
                    f"the prefix has {tuple(key.shape)} keys at {place}, but the base model has {has}",
                    where=where,
                    fix="use a prefix that was trained on this base model",
                )

    @contextmanager
    def side_by_side(self, weighted: Sequence[tuple[TaskPrefix, float]]) -> Iterator[None]:
        """All prefixes act on every text, each with its log weight."""
        for place in self.places:
            here = [i for i, (prefix, _) in enumerate(weighted) if place in prefix.states]
            self._owners[place] = here
            self._now[place] = [
                KeyValuePrefix(*self._split(place, weighted[i][0].states[place]), weighted[i][1]) for i in here
            ]
        with self._cleared():
            yield

    @contextmanager
    def one_each(self, prefixes: Sequence[TaskPrefix], texts: int) -> Iterator[None]:
        """Of M times B rows, the first B get the first prefix, the next B the second, and so on.

        Args:
            prefixes: M of one `form`.
            texts: B.
        """
        for place in prefixes[0].states:
            pairs = [self._split(place, prefix.states[place]) for prefix in prefixes]
            key, value = (torch.cat(states).repeat_interleave(texts, 0) for states in zip(*pairs, strict=True))
            self._now[place] = [KeyValuePrefix(key, value)]
        with self._cleared():
            yield

    @contextmanager
    def counting_shares(self, text: dict[str, Tensor], count: int) -> Iterator[Tensor]:
        """While the block is open, sum up the attention that each of `count` prefixes side by side takes.

        Args:
            text: `mask`, (B, T), 1 at real tokens; the caller sets it before every pass.
            count: number of prefixes.

        Yields:
            (places, count + 1) float64: sums of the shares over heads and real tokens, and, last, the number of
            terms of each sum.
        """
        sums = torch.zeros(len(self.places), count + 1, dtype=torch.float64)
        for total, (place, attention) in zip(sums, self._attentions.items(), strict=True):
            observe(attention.module, partial(self._count, total, place, text))
        try:
            yield sums
        finally:
            for attention in self._attentions.values():
                observe(attention.module, None)

    def _count(
        self, total: Tensor, place: str, text: dict[str, Tensor], prefixes: Sequence[Any], shares: Tensor
    ) -> None:
        real = text["mask"].bool()[:, None].expand(shares.shape[:3])
        lengths = [prefix.key.shape[2] for prefix in prefixes]
        taken = shares[..., : sum(lengths)].split(lengths, dim=-1)
        for owner, columns in zip(self._owners[place], taken, strict=True):
            total[owner] += columns.sum(-1)[real].double().sum().cpu()
        total[-1] += int(real.sum())

    def _give(self, place: str, _attention: nn.Module) -> Sequence[KeyValuePrefix]:
        return self._now.get(place, ())

    @contextmanager
    def _cleared(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._now.clear()
            self._owners.clear()

    def _split(self, place: str, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        attention = self._attentions[place]
        device, dtype = placement(attention.module)
        key, value = (by_heads(x.to(device, dtype), attention.key_value_heads, attention.head_width) for x in states)
        return key, value
