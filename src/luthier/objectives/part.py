"""A part of a training objective, and the simplest one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from luthier.objectives.step import Step


class Part:
    """What a part may do; each method does nothing unless overridden.

    A trainer calls them in the order: `begin` once, then `epoch_begin` at every epoch, and for every optimiser step
    `step_begin`, `around_batch` and `loss` for each batch, `after_backward` when the gradient of the whole step is
    there, `before_update` (behind clipping) and `after_update`.

    A trainer has what transformers' Trainer has, and `models`, all models of the run by name, the one that an objective
    acts on as `main_model`, `step_on` and `time_used`.

    Attributes:
        name: what a checkpoint knows the part by; default the class's name.
        gives_main_loss: whether its term fits the model to the data; of all parts of a run, one does.
        attends_to_padding: whether the main model's passes attend to padding.
        shares_dropout: whether all passes of the main model in a step drop the same units.
    """

    name: str = ""
    gives_main_loss: bool = False
    attends_to_padding: bool = False
    shares_dropout: bool = False

    def begin(self, trainer: Any) -> None:
        """Training starts or goes on; state of a checkpoint has been loaded."""

    def epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Epoch `epoch` (from 0) starts, or goes on."""

    def step_begin(self, trainer: Any) -> None:
        """An optimiser step starts."""

    def around_batch(self, trainer: Any) -> AbstractContextManager[None]:
        """Wraps the forward and backward pass of one batch."""
        return nullcontext()

    def loss(self, step: Step) -> Tensor | None:
        """A term of the loss."""
        return None

    def after_backward(self, trainer: Any) -> None:
        """The gradient of the step is complete and not yet clipped."""

    def before_update(self, trainer: Any) -> None:
        """The optimiser is about to use the gradient."""

    def after_update(self, trainer: Any) -> None:
        """The optimiser has moved the weights."""

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        """Tensors and numbers that a continued run needs. Called on every process."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class CleanLoss(Part):
    """The task loss of the unperturbed pass."""

    gives_main_loss = True

    def loss(self, step: Step) -> Tensor:
        return step.clean.loss
