"""Several models that one job holds, as one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from luthier.objectives.step import MAIN


class ModelGraph(nn.ModuleDict):
    """Models by name, so that all of them are placed, optimised, guarded and stored as one.

    Parameters are called `NAME.PARAMETER`. A model without a trainable parameter is frozen: it stays in evaluation
    mode, and nothing of it is stored.

    Args:
        models: the main one is called `model`.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        super().__init__(dict(models))
        self.frozen = frozenset(n for n, m in models.items() if not any(p.requires_grad for p in m.parameters()))

    def train(self, mode: bool = True) -> ModelGraph:
        self.training = mode
        for name, model in self.items():
            model.train(mode and name not in self.frozen)
        return self

    def forward(self, *args: Any, of: str = MAIN, **kwargs: Any) -> Any:
        """Run the model with that name."""
        return self[of](*args, **kwargs)
