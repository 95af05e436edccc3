"""Terms that are added to the loss: smoothing, and nearness to other weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.errors import TrainingError
from luthier.objectives.divergence import symmetric_divergence
from luthier.objectives.part import Part
from luthier.objectives.scope import backbone_parameters, trainable_parameters
from luthier.objectives.step import Step


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
        log_p = F.log_softmax(rows, dim=-1)
        right = log_p.gather(1, step.counted_labels().to(rows.device)[:, None])[:, 0]
        return step.over_examples(self.smoothing * (right - log_p.mean(dim=-1)).sum(), len(rows), "mean")


class WeightConsistency(Part):
    """strength / 2 * ||theta - theta_start||² over the trainable weights outside the head."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.start: dict[str, Tensor] = {}

    def begin(self, trainer: Any) -> None:
        self._held = backbone_parameters(trainer.main_model)
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
        self._trained = trainable_parameters(trainer.main_model)
        if not self.average:
            self.average = {n: p.detach().clone() for n, p in self._trained.items()}
        self.average = {n: v.to(self._trained[n].device) for n, v in self.average.items()}

    def loss(self, step: Step) -> Tensor:
        clean = step.clean
        with torch.no_grad(), self._averaged():
            target = step.run(companion=True).rows
        step.latest = clean
        divergence = symmetric_divergence(clean.rows, target)
        return step.over_examples(self.weight * divergence, len(target), "mean")

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with the average in place of its weights; what an open graph has saved of them stays."""
        own = {n: p.data for n, p in self._trained.items()}
        try:
            for n, p in self._trained.items():
                p.data = self.average[n]
            yield
        finally:
            for n, p in self._trained.items():
                p.data = own[n]

    def after_update(self, trainer: Any) -> None:
        with torch.no_grad():
            for name, p in self._trained.items():
                self.average[name].lerp_(p, 1 - self.decay)

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = state["average"]
