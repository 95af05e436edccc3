"""What plans and reports say of training on text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.training.estimates import split_states

if TYPE_CHECKING:
    from luthier.language_modeling.budget import Budget, TokenCost
    from luthier.language_modeling.documents import Corpus

_SMALL_BYTES = 20_000_000


def cost_in_words(cost: TokenCost) -> str:
    """A token's operations in a few words."""
    parts = {"layers": cost.body, "attention": cost.attention, "head": cost.head}
    return ", ".join(f"{name} {value / cost.forward:.0%}" for name, value in parts.items())


def budget_in_words(budget: Budget, minutes: float | None) -> str:
    """Steps, tokens and operations of a budget, or the time that ends it."""
    if budget.steps is None:
        return f"what {minutes:g} minutes allow"
    told = f"{budget.steps:,} steps, {budget.tokens:,} tokens, {budget.flops:.3g} operations"
    return told if minutes is None else f"{told}, or {minutes:g} minutes if they come first"


def split_in_words(total: int, whole: int, processes: int) -> str:
    """What each process of a run takes of weights, gradients and moments that are split over them, in float32.

    Args:
        total: parameters.
        whole: as `luthier.training.split.whole_at_once` counts them.
        processes: of the run; of one, which splits nothing, some numbers are told.
    """
    numbers = (processes,) if processes > 1 else (2, 4, 8)
    each = [f"{split_states(total, whole, n) / 1e9:.2f} GB in each of {n}" for n in numbers]
    return (
        f"weights and their state split over processes: {', '.join(each)}; each reads all {4 * total / 1e9:.2f} GB of "
        "weights once, and the main one puts them together for checkpoints and in the end"
    )


def sharing_in_words(size: int, length: int) -> str:
    """How processes share rows.

    Args:
        size: of a group of processes, of which each row has one.
        length: tokens of the longest rows.
    """
    return (
        f"each shared by {size} processes, {length // size:,} of {length:,} tokens in each, with keys and values of all"
    )


def is_small(corpus: Corpus) -> bool:
    """Whether counting the tokens of a text takes seconds."""
    size = corpus.bytes_here()
    return size is not None and size < _SMALL_BYTES
