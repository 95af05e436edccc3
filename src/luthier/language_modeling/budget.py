"""What training costs in floating-point operations, and how many steps a budget allows.

Counted is what the model itself needs: a multiplication and an addition for each weight and token, and the products
of attention over the whole square. Not counted are norms, activations, embeddings' look-up, and what is computed again
to save memory. For a decoder whose feed-forward width is four times its own this is the count of “Effective
Long-Context Scaling of Foundation Models” (Xiong et al., NAACL 2024), 72 tokens l h^2 (1 + L / 6h), plus the projection
onto the vocabulary, which they leave out.

Symbols: l layers, h hidden width, L tokens of a block, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.errors import RecipeError
from luthier.language_modeling.rows import output_embeddings
from luthier.models.inspect import base_of

if TYPE_CHECKING:
    from luthier.language_modeling.settings import LanguageTrainingSettings

# A backward pass multiplies twice what a forward pass does once: for the inputs' and for the weights' gradients.
TRAINING_PASSES = 3
# What configurations call the number of experts that a token goes to.
_CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k")


@dataclass(frozen=True)
class TokenCost:
    """Floating-point operations of one forward pass, for each token.

    Attributes:
        body: of the layers' weights.
        attention: of queries with keys, and of attention with values.
        head: of what comes behind the body, by the share of positions that predict.
    """

    body: float
    attention: float
    head: float

    @property
    def forward(self) -> float:
        """All of it."""
        return self.body + self.attention + self.head

    @property
    def training(self) -> float:
        """Forward and backward."""
        return TRAINING_PASSES * self.forward


def token_cost(model: nn.Module, length: int, predicted: float = 1.0) -> TokenCost:
    """What one token of a block costs.

    Args:
        model: with a language-model head; it may be on the meta device.
        length: L.
        predicted: share of the positions that predict: the masking rate, or about 1 for a causal model.
    """
    base = base_of(model)
    body, attention = _body(base, length)
    decoder = output_embeddings(model)
    inside = {id(module) for module in base.base_model.modules()}
    behind = sum(_products(m) for m in base.modules() if id(m) not in inside and m is not decoder)
    head = 2 * (behind + decoder.weight.numel()) * predicted
    return TokenCost(body, attention, head)


def body_cost(model: nn.Module, length: int) -> float:
    """What one token of a text of `length` tokens costs in a forward pass of a model's body, whatever its head."""
    return sum(_body(base_of(model), length))


def _body(base: Any, length: int) -> tuple[float, float]:
    """Operations a token of the layers' weights, and of attention."""
    weights = 2.0 * _multiplied(base.base_model, base.config)
    return weights, 4.0 * _layers(base.config) * _attention_width(base.config) * length


def _multiplied(module: nn.Module, config: Any) -> float:
    """Weights of a module that a token is multiplied with: those of a layer that runs several times as often, those of
    experts by the share of them that a token goes to."""
    own = _products(module) + _of_experts(module, config) + sum(_multiplied(part, config) for part in module.children())
    if type(module).__name__ == "AlbertLayerGroup":
        own *= config.num_hidden_layers / config.num_hidden_groups
    return own


def _of_experts(module: nn.Module, config: Any) -> float:
    if not type(module).__name__.endswith("Experts"):
        return 0.0
    text = config.get_text_config()
    chosen = next((count for name in _CHOSEN if (count := getattr(text, name, None))), None)
    tables = [one for one in module.parameters(recurse=False) if one.ndim == 3]
    return sum(one.numel() * min(1.0, (chosen or len(one)) / len(one)) for one in tables)


def paper_flops(tokens: float, layers: int, hidden: int, length: int, *, causal_half: bool = False) -> float:
    """Training operations of a decoder as Xiong et al. (NAACL 2024) count them: 72 tokens l h^2 (1 + L / 6h).

    Args:
        causal_half: count only the half of attention that a causal mask leaves, L / 12h.
    """
    return 72 * tokens * layers * hidden**2 * (1 + length / ((12 if causal_half else 6) * hidden))


def _products(module: nn.Module) -> int:
    """Weights of a module, without those in it, that every token is multiplied with."""
    if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
        return int(module.weight.numel())  # type: ignore[operator]
    return 0


def _layers(config: Any) -> int:
    return int(getattr(config, "num_hidden_layers", 0) * getattr(config, "inner_group_num", 1))


def _attention_width(config: Any) -> int:
    size = getattr(config, "head_dim", None)
    return int(config.num_attention_heads * size) if size else int(config.hidden_size)


@dataclass(frozen=True)
class Budget:
    """How long a job trains.

    Attributes:
        steps: optimiser steps, or None where only time ends it.
        tokens_per_step: of all processes.
        cost: of a token.
    """

    steps: int | None
    tokens_per_step: int
    cost: TokenCost

    @property
    def tokens(self) -> int | None:
        """Tokens of all steps."""
        return None if self.steps is None else self.steps * self.tokens_per_step

    @property
    def flops(self) -> float | None:
        """Floating-point operations of all steps."""
        return None if self.tokens is None else self.tokens * self.cost.training


def budget_of(
    settings: LanguageTrainingSettings, cost: TokenCost, *, processes: int = 1, blocks: int | None = None
) -> Budget:
    """The steps that the settings allow; of several limits the first one that is reached ends the training.

    Args:
        settings: with their limits.
        cost: of a token.
        processes: that share the work, each with a batch of its own; or groups of them, which share its rows.
        blocks: of one pass over the text; needed where `epochs` is the budget.

    Raises:
        RecipeError: the budget is smaller than one step.
    """
    per_step = settings.length * settings.batch_size * settings.accumulation * processes
    limits: dict[str, float] = {}
    if settings.max_steps is not None:
        limits["max_steps"] = settings.max_steps
    if settings.max_tokens is not None:
        limits["max_tokens"] = settings.max_tokens / per_step
    if settings.max_flops is not None:
        limits["max_flops"] = settings.max_flops / (per_step * cost.training)
    if not limits and settings.max_minutes is None:
        if blocks is None:
            raise ValueError("epochs are the budget, and how many blocks make one is not given")
        # A text that fills no block is read again until it does.
        return Budget(max(1, math.ceil(settings.epochs * blocks * settings.length / per_step)), per_step, cost)
    name = min(limits, key=lambda one: limits[one], default=None)
    if name is not None and limits[name] < 1:
        raise RecipeError(
            f"`{name}` allows {limits[name]:.2g} of a step, which takes {per_step:,} tokens and "
            f"{per_step * cost.training:.2g} floating-point operations",
            fix=f"raise `{name}`, or make batch_size smaller",
        )
    return Budget(None if name is None else int(limits[name]), per_step, cost)
