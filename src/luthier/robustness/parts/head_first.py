"""Train the head alone first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from luthier.errors import TrainingError
from luthier.objectives.part import Part
from luthier.objectives.scope import backbone_parameters, head_parameters


class HeadFirst(Part):
    """Keeps everything but the head still for the first share of all optimiser steps, or of the time allowed (LP-FT).

    Parameters without a gradient are left alone by the optimiser, weight decay included.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def begin(self, trainer: Any) -> None:
        """Find the head.

        Raises:
            TrainingError: the model has no trainable head, or nothing else to train afterwards.
        """
        self._rest = list(backbone_parameters(trainer.main_model).values())
        if not head_parameters(trainer.main_model) or not self._rest:
            missing = "trainable head" if self._rest else "trainable parameter outside its head"
            raise TrainingError(f"the model has no {missing}", fix="use another objective than lp_ft")

    def _head_only(self, trainer: Any) -> bool:
        early = trainer.state.global_step < round(self.fraction * trainer.state.max_steps)
        return bool(early and trainer.time_used < self.fraction)

    @contextmanager
    def around_batch(self, trainer: Any) -> Iterator[None]:
        # Distributed wrappers wait for the gradients of all parameters, so there the gradients are dropped instead.
        freeze = self._head_only(trainer) and trainer.args.world_size == 1
        for p in self._rest if freeze else []:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in self._rest if freeze else []:
                p.requires_grad_(True)

    def after_backward(self, trainer: Any) -> None:
        if self._head_only(trainer):
            for p in self._rest:
                p.grad = None
