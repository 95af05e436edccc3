"""Candidate spans of a batch, which of them are learned from, and how negatives are drawn.

Shapes: B sentences, W words, S candidate spans, G annotated entities, P entities whose pairs are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Pairs are numbered head * PAIRS_APART + tail in a draw, so that padding changes no number.
PAIRS_APART = 1 << 16


@dataclass
class Spans:
    """Spans of words.

    Attributes:
        words: (B, N, 2) first word and the word behind the last.
        start, end: (B, N), the same in word pieces.
        valid: (B, N), spans that there are and that hold a piece.
    """

    words: Tensor
    start: Tensor
    end: Tensor
    valid: Tensor

    @property
    def width(self) -> Tensor:
        """(B, N) words."""
        return self.words[..., 1] - self.words[..., 0]

    def at(self, index: Tensor) -> Spans:
        """Those at (B, M) indices; -1 is none."""
        here = index.clamp(min=0)
        words = self.words.gather(1, here[..., None].expand(-1, -1, 2))
        valid = self.valid.gather(1, here) & (index >= 0)
        return Spans(words, self.start.gather(1, here), self.end.gather(1, here), valid)


def spans_of(words: Tensor, word_start: Tensor, word_end: Tensor) -> Spans:
    """(B, N, 2) spans of words in pieces.

    Args:
        words: as in `Spans`; -1 where there is none.
        word_start, word_end: (B, W) pieces of every word; -1 behind the last word.
    """
    first, last = words[..., 0].clamp(min=0), (words[..., 1] - 1).clamp(min=0)
    most = word_start.shape[1] - 1
    start, end = word_start.gather(1, first.clamp(max=most)), word_end.gather(1, last.clamp(max=most))
    there = (words[..., 0] >= 0) & (words[..., 1] <= (word_start >= 0).sum(1, keepdim=True))
    return Spans(words, start, end, there & (end > start))


def candidates(word_start: Tensor, word_end: Tensor, longest: int, annotated: Tensor | None) -> tuple[Spans, Tensor]:
    """All spans of up to `longest` words, the span of n words from word i at i * longest + n - 1, and behind them the
    annotated ones that are longer.

    Args:
        word_start, word_end: (B, W) pieces of every word; -1 behind the last word.
        longest: words of the longest span.
        annotated: (B, G, 2) entities in words, -1 where there is none; or None.

    Returns:
        The spans, and the (B, G) place of every annotated one among them, -1 where there is none.
    """
    rows, count = word_start.shape
    first = torch.arange(count, device=word_start.device)[:, None].expand(count, longest)
    behind = first + torch.arange(1, longest + 1, device=word_start.device)
    grid = torch.stack([first, behind], dim=-1).reshape(1, -1, 2).expand(rows, -1, -1)
    if annotated is None:
        return spans_of(grid, word_start, word_end), word_start.new_zeros(rows, 0)
    width, there = annotated[..., 1] - annotated[..., 0], annotated[..., 0] >= 0
    long = there & (width > longest)
    behind_grid = count * longest + torch.arange(annotated.shape[1], device=width.device)
    place = torch.where(long, behind_grid, annotated[..., 0] * longest + width - 1)
    beyond = torch.where(long[..., None], annotated, -1)
    return spans_of(torch.cat([grid, beyond], dim=1), word_start, word_end), torch.where(there, place, -1)


def marked(place: Tensor, count: int) -> Tensor:
    """(B, G) places, -1 for none -> (B, count) whether a place is among them."""
    found = place.new_zeros(place.shape[0], count + 1)
    found.scatter_(1, torch.where(place >= 0, place, count), 1)
    return found[:, :count].bool()


def drawn(allowed: Tensor, numbers: Tensor, seeds: Tensor, count: int) -> Tensor:
    """A uniform draw without replacement of up to `count` of each sentence's items.

    It depends on each sentence's seed and the numbers of its items, and on nothing else in the batch, so that neither
    padding nor gradient accumulation changes it.

    Args:
        allowed: (B, N), items that can be drawn.
        numbers: (N,) or (B, N), a number for every item.
        seeds: (B,).

    Returns:
        (B, N), the items that are drawn.
    """
    if count >= allowed.shape[1]:
        return allowed
    if not count:
        return torch.zeros_like(allowed)
    order = torch.where(allowed, _scrambled(seeds[:, None] + numbers * _STEP), _LARGEST)
    bound = order.kthvalue(count, dim=1, keepdim=True).values
    return allowed & (order <= bound)


def sentence_seeds(count: int, device: torch.device) -> Tensor:
    """(B,) numbers off torch's generator on the CPU, in the order of the sentences."""
    return torch.randint(1 << 62, (count,)).to(device)


_LARGEST = torch.iinfo(torch.int64).max
_STEP = -7046029254386353131


def _scrambled(values: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014) on int64, without the sign."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        values = (values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (values ^ ((values >> 31) & ((1 << 33) - 1))) & (_LARGEST >> 1)
