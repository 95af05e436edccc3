"""The loss of long instruction tuning: L = sum_t w_t CE_t / sum_t w_t, with w = 1 on answers and less, or as much, on
what comes before them.

Source: Xiong et al., “Effective Long-Context Scaling of Foundation Models” (NAACL 2024), section 4.2: the loss on the
long input as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from luthier.data.schemas import IGNORED
from luthier.language_modeling.part import rows_of
from luthier.language_modeling.rows import predicted_positions
from luthier.objectives.part import Part
from luthier.objectives.step import Step
from luthier.tasks.language import LanguageTask


class WeightedText(LanguageTask):
    """Text whose tokens weigh differently in the loss; `items` is the sum of the weights, which the loss of an
    optimiser step is divided by."""

    name: ClassVar[str] = "weighted_text"
    targets: ClassVar[tuple[str, ...]] = ("labels", "loss_weights")

    def items(self, batch: Mapping[str, Any], *, shifted: bool = False) -> float:
        weights, labels = batch["loss_weights"], batch["labels"]
        if shifted:
            weights, labels = weights[:, 1:], labels[:, 1:]
        return float((weights.double() * labels.ne(IGNORED)).sum())


class WeightedLoss(Part):
    """Cross-entropy of the predicted tokens by their weights, in chunks over the vocabulary; the main loss of a run.

    Args:
        dtype: of the product with the output embeddings; None is that of the model.
    """

    name = "weighted_text"
    gives_main_loss = True

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype

    def loss(self, step: Step) -> Tensor:
        losses = rows_of(step, shifted=True).losses(self.dtype)
        weights = step.inputs["loss_weights"][:, 1:][predicted_positions(step.inputs["labels"], shifted=True)[:, :-1]]
        items = float(weights.double().sum()) if step.items is None else float(step.items)
        scale = step.trainer.args.world_size if step.trainer.model.training else 1
        return scale * (weights * losses).sum() / max(1.0, items)
