"""The parts of one run, which a trainer calls together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, overload

import torch
from torch import Tensor
from transformers import TrainerCallback

from luthier.errors import TrainingError
from luthier.objectives.part import Part
from luthier.objectives.step import Step


class PartList(Sequence[Part]):
    """Parts in the order they act. Their order and names belong to a run: a checkpoint goes on with the same ones only.

    Args:
        parts: one of them gives the main loss; none at all leave the loss to the trainer.

    Raises:
        TrainingError: there are parts, and none or several of them give the main loss.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        self.names = _names(self._parts)
        main = [name for name, part in zip(self.names, self._parts, strict=True) if part.gives_main_loss]
        if self._parts and len(main) != 1:
            raise TrainingError(
                f"of the parts {', '.join(self.names)}, {' and '.join(main) or 'none'} would give the main loss",
                fix="give one part with `gives_main_loss`, such as CleanLoss()",
            )
        self.attends_to_padding = any(part.attends_to_padding for part in self._parts)
        self.shares_dropout = any(part.shares_dropout for part in self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Part: ...

    @overload
    def __getitem__(self, index: slice) -> list[Part]: ...

    def __getitem__(self, index: int | slice) -> Part | list[Part]:
        return self._parts[index]

    # -- one optimiser step ---------------------------------------------------------------------------------

    @contextmanager
    def around_batch(self, trainer: Any) -> Iterator[None]:
        """Every part around the forward and backward pass of one batch; the first part is outermost."""
        with ExitStack() as around:
            for part in self:
                around.enter_context(part.around_batch(trainer))
            yield

    def loss(self, step: Step) -> Tensor:
        """The sum of all terms, a scalar; where none counts in this step, a 0 that moves nothing."""
        terms = [term for part in self if (term := part.loss(step)) is not None]
        if not terms:
            return torch.zeros((), device=step.trainer.args.device, requires_grad=True)
        return torch.stack(terms).sum()

    def after_backward(self, trainer: Any) -> None:
        for part in self:
            part.after_backward(trainer)

    def callback(self, trainer: Any) -> TrainerCallback:
        """Calls the parts where a Trainer has no method to extend."""
        return _PartsCallback(self, trainer)

    # -- state ----------------------------------------------------------------------------------------------

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        """The names of the parts, and the state of those that have one."""
        named = zip(self.names, self, strict=True)
        return {"parts": self.names, "state": {n: state for n, part in named if (state := part.state_dict(trainer))}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            TrainingError: it was given by other parts.
        """
        if "parts" not in saved:  # earlier versions stored the state of parts by their places
            saved = {"parts": self.names, "state": {self.names[int(place)]: state for place, state in saved.items()}}
        if saved["parts"] != self.names:
            raise TrainingError(
                f"the checkpoint was trained with {_told(saved['parts'])}, and this run has {_told(self.names)}",
                fix="start the run afresh in another directory, or give back the parts that it began with",
            )
        for name, part in zip(self.names, self, strict=True):
            if name in saved["state"]:
                part.load_state_dict(saved["state"][name])


def _names(parts: list[Part]) -> list[str]:
    """The name of every part, numbered from its second occurrence on."""
    seen: Counter[str] = Counter()
    names = []
    for part in parts:
        name = part.name or type(part).__name__
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names


def _told(names: Sequence[str]) -> str:
    return f"the parts {', '.join(names)}" if names else "no parts"


class _PartsCallback(TrainerCallback):
    def __init__(self, parts: PartList, trainer: Any) -> None:
        self.parts, self.trainer = parts, trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        for part in self.parts:
            part.begin(self.trainer)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for part in self.parts:
            part.epoch_begin(self.trainer, int(state.epoch or 0.0))

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        for part in self.parts:
            part.step_begin(self.trainer)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        for part in self.parts:
            part.before_update(self.trainer)

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        for part in self.parts:
            part.after_update(self.trainer)
