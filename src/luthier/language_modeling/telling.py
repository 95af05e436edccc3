"""What plans and reports say of training on text."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def is_small(corpus: Corpus) -> bool:
    """Whether counting the tokens of a text takes seconds."""
    size = corpus.bytes_here()
    return size is not None and size < _SMALL_BYTES
