"""What plans and reports say of training on text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.models.inspect import bytes_on_disk, parameter_counts

if TYPE_CHECKING:
    from luthier.language_modeling.budget import Budget, TokenCost
    from luthier.language_modeling.documents import Corpus
    from luthier.training.job import TrainingResult

_SMALL_BYTES = 20_000_000


def training_cost(model: Any, result: TrainingResult, artifact: Path) -> dict[str, float]:
    """What the report says of the costs."""
    trainable, total = parameter_counts(model)
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "bytes_on_disk": bytes_on_disk(artifact),
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "tokens_per_second": result.tokens_per_second,
    }


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
