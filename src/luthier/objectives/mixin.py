"""Runs an objective's parts inside transformers' Trainer, or any subclass of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from luthier.objectives.base import Objective
from luthier.objectives.step import Step
from luthier.registry import OBJECTIVES
from luthier.storage.files import reporting_failed_writes

STATE = "objective.pt"


if TYPE_CHECKING:

    class _TrainerMethods(Trainer): ...

else:

    class _TrainerMethods:
        """What stands behind the mixin is a Trainer, which type checkers are told."""


class ObjectiveMixin(_TrainerMethods):
    """Put in front of a Trainer: `class MyTrainer(ObjectiveMixin, Trainer)`.

    Evaluation is the Trainer's own. The loss of every pass is what the Trainer's `compute_loss` returns, so a subclass
    with its own loss keeps it.

    Args:
        objective: what to train by, as settings or by name; further arguments are the Trainer's.

    Raises:
        RecipeError: there is no objective of that name.
        TrainingError: the objective does not fit the model.
    """

    default_objective: Callable[[], Objective] | None = None

    def __init__(self, *args: Any, objective: Objective | str | None = None, **kwargs: Any) -> None:
        if objective is None:
            if self.default_objective is None:
                raise ValueError("give an objective")
            objective = self.default_objective()
        objective = OBJECTIVES.get(objective)() if isinstance(objective, str) else objective
        self.objective: Objective = objective
        self.objective_parts = objective.parts()
        self._pad_mask: bool = getattr(objective, "pad_mask", True)
        self._shared_dropout: bool = getattr(objective, "shared_dropout", False)
        super().__init__(*args, **kwargs)
        if self.loss_is_scaled_for_ga is None and self.compute_loss_func is None:
            # Heads of transformers models average over their own batch even where they accept an item count, so
            # the Trainer has to divide by the accumulated batches itself.
            self.model_accepts_loss_kwargs = False
        self._keeps_state_itself = not hasattr(super(), "objective_state")
        self.add_callback(_PartsCallback(self))
        objective.configure(self)

    # -- the loss ------------------------------------------------------------------------------------------

    def step_on(self, model: nn.Module, inputs: dict[str, Any], items: Tensor | float | None) -> Step:
        """A batch as the parts see it."""
        if not self._pad_mask:
            inputs = _attending_to_padding(inputs)
        return Step(self, model, inputs, items, super().compute_loss, shared_dropout=self._shared_dropout)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        if not model.training:
            inputs = inputs if self._pad_mask else _attending_to_padding(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        step = self.step_on(model, inputs, num_items_in_batch)
        terms = [part.loss(step) for part in self.objective_parts]
        loss = torch.stack([t for t in terms if t is not None]).sum()
        return (loss, step.latest.outputs if step.latest else None) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        with ExitStack() as around:
            for part in self.objective_parts:
                around.enter_context(part.around_batch(self))
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            for part in self.objective_parts:
                part.after_backward(self)
        return loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, then let the objective finish the model on the evaluation set where it needs one.

        A trainer that keeps the best weights itself calls `objective.finish` after loading them.
        """
        result = super().train(*args, **kwargs)
        if self.objective.needs_validation_logits and self._keeps_state_itself:
            predicted = self.predict(self.eval_dataset)
            outputs = predicted.predictions
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            result.metrics.update(self.objective.finish(self.model, logits, predicted.label_ids))
        return result

    # -- state ---------------------------------------------------------------------------------------------

    def objective_state(self) -> dict[str, Any]:
        """State of all parts: tensors, numbers and containers of them."""
        return {str(i): state for i, part in enumerate(self.objective_parts) if (state := part.state_dict(self))}

    def load_objective_state(self, state: dict[str, Any]) -> None:
        """Take back what `objective_state` gave."""
        for i, part in enumerate(self.objective_parts):
            if str(i) in state:
                part.load_state_dict(state[str(i)])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._keeps_state_itself:
            state = self.objective_state()
            if state and self.args.should_save:
                with reporting_failed_writes(Path(output_dir)):
                    torch.save(state, Path(output_dir) / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._keeps_state_itself and checkpoint is not None and (Path(checkpoint) / STATE).exists():
            self.load_objective_state(torch.load(Path(checkpoint) / STATE, weights_only=True, map_location="cpu"))


class _PartsCallback(TrainerCallback):
    """Calls the parts where the Trainer has no method to extend."""

    def __init__(self, trainer: ObjectiveMixin) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        for part in self.trainer.objective_parts:
            part.begin(self.trainer)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for part in self.trainer.objective_parts:
            part.epoch_begin(self.trainer, int(state.epoch or 0.0))

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        for part in self.trainer.objective_parts:
            part.step_begin(self.trainer)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        for part in self.trainer.objective_parts:
            part.before_update(self.trainer)

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        for part in self.trainer.objective_parts:
            part.after_update(self.trainer)


def _attending_to_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch with every position attended to, as in the released code (section 8, item 2)."""
    mask = inputs.get("attention_mask")
    return inputs if mask is None else {**inputs, "attention_mask": torch.ones_like(mask)}
