"""Where the prompt stands in each row, and moving between sequences with and without it.

Shapes: B examples, T columns of the caller's sequence, t inserted positions, L = T + t, k of the t that the
generator makes (all, but for a margin of fixed ones on either side). The prompt may stand at
another column in every row; where it stands at the same one in all rows, slices are used instead of gathers.
"""

from __future__ import annotations

import torch
from torch import Tensor

BEFORE_TEXT, AFTER_FIRST, BEFORE_SEPARATOR, AFTER_SECOND_SEPARATOR, BEFORE_LAST_SEPARATOR, OWN_SEGMENT = range(-1, 5)


class Placement:
    """t positions put in front of column `at` of each row.

    Args:
        at: (B,) columns, int64, each from 0 to T.
        width: T.
        length: t.
        margin: positions at either end of the t that hold the same in every layer's input, k = t - 2 margin.
    """

    def __init__(self, at: Tensor, width: int, length: int, margin: int = 0) -> None:
        self.at, self.width, self.length, self.margin = at, width, length, margin
        self.same: int | None = None
        if not torch.compiler.is_compiling() and not at.is_meta and bool((at == at[0]).all()):
            self.same = int(at[0])

    def insert(self, text: Tensor, prompt: Tensor) -> Tensor:
        """(B, T, ...) and (B, t, ...) -> (B, L, ...)."""
        if self.same is not None:
            return torch.cat([text[:, : self.same], prompt, text[:, self.same :]], 1)
        column = torch.arange(self.width + self.length, device=text.device)[None]
        start, end = self.at[:, None], self.at[:, None] + self.length
        source = torch.where(column < start, column, column - self.length)
        source = torch.where((column >= start) & (column < end), self.width + column - start, source)
        return _gather(torch.cat([text, prompt], 1), source)

    def remove(self, sequence: Tensor) -> Tensor:
        """(B, L, ...) -> (B, T, ...), the text alone."""
        if self.same is not None:
            return torch.cat([sequence[:, : self.same], sequence[:, self.same + self.length :]], 1)
        column = torch.arange(self.width, device=sequence.device)[None].expand(len(self.at), -1)
        return _gather(sequence, self.moved(column))

    def prompt_of(self, sequence: Tensor) -> Tensor:
        """(B, L, ...) -> (B, t, ...), what was inserted."""
        return _gather(sequence, self.columns())

    def write(self, sequence: Tensor, prompt: Tensor, *, add: bool) -> Tensor:
        """The sequence (B, L, d) with the prompt (B, k, d) added to, or put in place of, what its positions hold."""
        if self.same is not None:
            start = self.same + self.margin
            before, there, after = sequence.tensor_split((start, start + prompt.shape[1]), 1)
            return torch.cat([before, there + prompt if add else prompt, after], 1)
        columns = self.columns()[:, self.margin : self.length - self.margin, None].expand_as(prompt)
        return sequence.scatter_add(1, columns, prompt) if add else sequence.scatter(1, columns, prompt)

    def columns(self) -> Tensor:
        """(B, t) columns of what was inserted, of L."""
        return self.at[:, None] + torch.arange(self.length, device=self.at.device)

    def moved(self, column: Tensor) -> Tensor:
        """Columns of T, (B,) or (B, k) -> the same tokens' columns of L."""
        at = self.at if column.ndim == 1 else self.at[:, None]
        return column + self.length * (column >= at)

    def is_prompt(self) -> Tensor:
        """(B, L), true at what was inserted."""
        column = torch.arange(self.width + self.length, device=self.at.device)[None]
        return (column >= self.at[:, None]) & (column < self.at[:, None] + self.length)


def insertion_columns(position: int, mask: Tensor, ids: Tensor | None, separator: int | None) -> Tensor:
    """The column of each row that the prompt is put in front of.

    A row without separators takes the end of its text; where there is one, it stands for the second too.

    Args:
        position: as in `InstancePromptConfig.position`.
        mask: (B, T), 1 at real tokens.
        ids: (B, T) token ids, needed for positions 1 to 4.
        separator: the separator's id, needed for positions 1 to 4.

    Returns:
        (B,) int64.

    Raises:
        ValueError: a position that needs separators, and no ids or no separator.
    """
    first = mask.int().argmax(1)
    if position <= AFTER_FIRST:
        return first + (1 if position == AFTER_FIRST else 0)
    if ids is None or separator is None:
        raise ValueError(
            f"position {position} stands at a separator, which needs "
            + ("input_ids" if ids is None else "separator_token_id in the configuration")
        )
    width = mask.shape[1]
    end = width - mask.int().flip(1).argmax(1)
    found = (ids == separator) & mask.bool()
    seen, total = found.int().cumsum(1), found.sum(1)
    number = {BEFORE_SEPARATOR: torch.ones_like(total), AFTER_SECOND_SEPARATOR: total.clamp(max=2)}.get(position, total)
    column = (found & (seen == number[:, None])).int().argmax(1)
    behind = 1 if position in (AFTER_SECOND_SEPARATOR, OWN_SEGMENT) else 0
    return torch.where(total > 0, column + behind, end)


def last_columns(mask: Tensor) -> Tensor:
    """(B, T) mask -> (B,) column of each row's last real token."""
    return mask.shape[1] - 1 - mask.int().flip(1).argmax(1)


def context_columns(labels: Tensor, mask: Tensor | None = None, ignored: int = -100) -> Tensor:
    """The column of the last token that no label depends on: what a causal model may summarise while it is trained.

    The token in front of the first labelled one; the first real token where that is labelled itself, since
    nothing predicts it.

    Args:
        labels: (B, T), `ignored` where nothing is learned; unshifted.
        mask: (B, T); None is 1 everywhere.

    Returns:
        (B,) int64.
    """
    mask = torch.ones_like(labels) if mask is None else mask
    first = mask.int().argmax(1)
    labelled = (labels != ignored) & mask.bool()
    start = torch.where(labelled.any(1), labelled.int().argmax(1) - 1, last_columns(mask))
    return torch.maximum(start, first)


def _gather(sequence: Tensor, columns: Tensor) -> Tensor:
    if sequence.ndim == 2:
        return sequence.gather(1, columns.expand(len(sequence), -1))
    return sequence.gather(1, columns[..., None].expand(len(sequence), -1, sequence.shape[-1]))
