"""The loss of a language model as a part of a training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.language_modeling.rows import PredictionRows, prediction_rows
from luthier.objectives.part import Part
from luthier.objectives.step import MAIN, Step


class LanguageModelingLoss(Part):
    """Cross-entropy of the predicted tokens, in chunks over the vocabulary; the main loss of a run.

    Args:
        shifted: whether the model predicts the next token.
        dtype: of the product with the output embeddings; None is that of the model.
        samples: tokens that the normaliser is estimated from in training; None takes the whole vocabulary.
    """

    name = "language_modeling"
    gives_main_loss = True

    def __init__(self, *, shifted: bool, dtype: torch.dtype | None = None, samples: int | None = None) -> None:
        self.shifted, self.dtype, self.samples = shifted, dtype, samples

    def loss(self, step: Step) -> Tensor:
        training = step.trainer.model.training
        # Other processes wait for a gradient by autograd.
        rows = rows_of(step, shifted=self.shifted, in_place=training and step.trainer.args.world_size == 1)
        items = len(rows.targets) if step.items is None else step.items
        scale = step.trainer.args.world_size if training else 1
        sampled = training and self.samples is not None and self.samples < len(rows.weight)
        losses = rows.sampled_losses(int(self.samples or 0), self.dtype) if sampled else rows.losses(self.dtype)
        return scale * losses.sum() / max(1, float(items))


def rows_of(step: Step, *, shifted: bool, name: str = MAIN, in_place: bool = False) -> PredictionRows:
    """The predicted positions of a step's batch, as one of the run's models sees them.

    Args:
        step: the batch at hand.
        shifted: whether the model predicts the next token.
        name: of the model.
        in_place: as `prediction_rows` has it.
    """

    def run() -> Any:
        return step.trainer.logits_of(step.model, dict(step.inputs), name)

    return prediction_rows(step.models[name], step.inputs["labels"], shifted=shifted, run=run, in_place=in_place)
