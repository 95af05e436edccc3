"""Sharpness-aware minimisation: the gradient at adversarially moved weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from luthier.objectives.part import Part
from luthier.objectives.scope import trainable_parameters
from luthier.objectives.step import Step


class WeightAscent(Part):
    """The task loss at theta + rho g / ||g||, with g the gradient of the same batch at theta.

    Each process, and each batch of an accumulated step, moves the weights by its own gradient.
    """

    gives_main_loss = True

    def __init__(self, rho: float) -> None:
        self.rho = rho
        self._saved: list[tuple[Tensor, Tensor]] = []

    def begin(self, trainer: Any) -> None:
        self._trained = list(trainable_parameters(trainer.main_model).values())

    @contextmanager
    def around_batch(self, trainer: Any) -> Iterator[None]:
        try:
            yield
        finally:
            with torch.no_grad():
                for p, old in self._saved:
                    p.copy_(old)
            self._saved = []

    def loss(self, step: Step) -> Tensor:
        with step.trainer.accelerator.no_sync(step.model):
            gradients = step.gradients(step.run().loss, self._trained)
        length = torch.stack([(g if g.dtype == torch.float64 else g.float()).norm() for g in gradients]).norm()
        # Where half precision overflows, the scaler is to see it in the pass below and leave out the step.
        moved = self._trained if step.trainer.accelerator.scaler is None or bool(length.isfinite()) else []
        with torch.no_grad():
            for p, g in zip(moved, gradients, strict=False):
                self._saved.append((p, p.detach().clone()))
                p.add_(g * (self.rho / (length + 1e-12)).to(g.dtype))
        return step.run().loss
