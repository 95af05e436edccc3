"""Terms that are added to the loss: smoothing, and nearness to other weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from luthier.errors import TrainingError
from luthier.robustness.divergence import IGNORED, comparable_rows, symmetric_divergence
from luthier.robustness.parts.base import Part
from luthier.robustness.scope import backbone_parameters, trainable_parameters
from luthier.robustness.step import Step, logits_of


class Smoothing(Part):
    """Turns the cross-entropy of the clean pass into one with smoothed targets.

    (1 - s) CE + s * mean over classes of -log p, as CE plus s times their difference.
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def loss(self, step: Step) -> Tensor:
        rows = step.clean.rows
        if rows.shape[-1] == 1 or "labels" not in step.inputs:
            raise TrainingError("label smoothing needs class labels", fix="use another objective for this task")
        labels = step.inputs["labels"].reshape(-1)
        log_p = F.log_softmax(rows, dim=-1)
        right = log_p.gather(1, labels[labels != IGNORED].to(rows.device)[:, None])[:, 0]
        return step.over_examples(self.smoothing * (right - log_p.mean(dim=-1)).sum(), len(rows), "mean")


class WeightConsistency(Part):
    """strength / 2 * ||theta - theta_start||² over the trainable weights outside the head."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.start: dict[str, Tensor] = {}

    def begin(self, trainer: Any) -> None:
        self._held = backbone_parameters(trainer.model)
        if not self.start:
            self.start = {n: p.detach().clone() for n, p in self._held.items()}
        self.start = {n: v.to(self._held[n].device) for n, v in self.start.items()}

    def loss(self, step: Step) -> Tensor | None:
        terms = [(p - self.start[n]).square().sum() for n, p in self._held.items()]
        return step.once(self.strength / 2 * torch.stack(terms).sum()) if terms else None

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        return {"start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = state["start"]


class Proximal(Part):
    """weight * mean divergence from a model whose weights are a running average (SMART's Bregman term)."""

    def __init__(self, weight: float, decay: float) -> None:
        self.weight, self.decay = weight, decay
        self.average: dict[str, Tensor] = {}

    def begin(self, trainer: Any) -> None:
        self._trained = trainable_parameters(trainer.model)
        if not self.average:
            self.average = {n: p.detach().clone() for n, p in self._trained.items()}
        self.average = {n: v.to(self._trained[n].device) for n, v in self.average.items()}

    def loss(self, step: Step) -> Tensor:
        model = step.trainer.model
        with torch.no_grad():
            outputs = functional_call(model, self.average, (), _without_labels(step.inputs))
        target = comparable_rows(logits_of(outputs), step.inputs.get("labels"))
        divergence = symmetric_divergence(step.clean.rows, target)
        return step.over_examples(self.weight * divergence, len(target), "mean")

    def after_update(self, trainer: Any) -> None:
        with torch.no_grad():
            for name, p in self._trained.items():
                self.average[name].lerp_(p, 1 - self.decay)

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = state["average"]


def _without_labels(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in inputs.items() if k not in ("labels", "start_positions", "end_positions")}
