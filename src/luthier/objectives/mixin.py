"""Runs an objective's parts inside transformers' Trainer, or any subclass of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from luthier.errors import DataError
from luthier.objectives.base import Objective
from luthier.objectives.part_list import PartList
from luthier.objectives.step import MAIN, Step, attending_to_padding
from luthier.registry import OBJECTIVES
from luthier.storage.files import reporting_failed_writes

STATE = "objective.pt"


if TYPE_CHECKING:

    class _TrainerMethods(Trainer): ...

else:

    class _TrainerMethods:
        """What stands behind the mixin is a Trainer, which type checkers are told."""


class ObjectiveMixin(_TrainerMethods):
    """Put in front of transformers' Trainer, or of your own subclass: `class MyTrainer(ObjectiveMixin, Trainer)`.

    Evaluation is the Trainer's own. The loss of every pass is what the Trainer's `compute_loss` returns, so a subclass
    with its own loss keeps it. Luthier's own trainer runs parts itself and needs no mixin.

    Args:
        objective: what to train by, as settings or by name; further arguments are the Trainer's.

    Raises:
        RecipeError: there is no objective of that name.
        TrainingError: the objective does not fit the model.
    """

    default_objective: Callable[[], Objective] | None = None
    time_used = 0.0  # share of a time limit, which these trainers don't have

    def __init__(self, *args: Any, objective: Objective | str | None = None, **kwargs: Any) -> None:
        if objective is None:
            if self.default_objective is None:
                raise ValueError("give an objective")
            objective = self.default_objective()
        objective = OBJECTIVES.get(objective)() if isinstance(objective, str) else objective
        self.objective: Objective = objective
        self.objective_parts = PartList(objective.parts())
        super().__init__(*args, **kwargs)
        if self.loss_is_scaled_for_ga is None and self.compute_loss_func is None:
            # Heads of transformers models average over their own batch even where they accept an item count, so
            # the Trainer has to divide by the accumulated batches itself.
            self.model_accepts_loss_kwargs = False
        self.add_callback(self.objective_parts.callback(self))

    @property
    def models(self) -> dict[str, nn.Module]:
        """All models of the run by name: the one."""
        return {MAIN: self.model}

    @property
    def main_model(self) -> nn.Module:
        return self.model

    # -- the loss ------------------------------------------------------------------------------------------

    def step_on(self, model: nn.Module, inputs: dict[str, Any], items: Tensor | float | None) -> Step:
        """A batch as the parts see it."""
        plain_loss = super().compute_loss

        def task_pass(model: nn.Module, inputs: dict[str, Any], of: str) -> tuple[Tensor, Any]:
            return plain_loss(model, inputs, return_outputs=True, num_items_in_batch=items)

        return Step(self, model, inputs, items, task_pass, self.objective_parts)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        if not model.training:
            inputs = attending_to_padding(inputs) if self.objective_parts.attends_to_padding else inputs
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        step = self.step_on(model, inputs, num_items_in_batch)
        loss = self.objective_parts.loss(step)
        return (loss, step.latest.outputs if step.latest else None) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        with self.objective_parts.around_batch(self):
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.objective_parts.after_backward(self)
        return loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, then let the objective finish the model on the evaluation set where it needs one.

        Raises:
            DataError: it needs one, and there is none, or several.
        """
        if self.objective.needs_validation_logits and (not self.eval_dataset or isinstance(self.eval_dataset, dict)):
            raise DataError(
                f"{self.objective.name} is finished on the validation rows, and the trainer has "
                f"{'several sets of them' if self.eval_dataset else 'none'}",
                fix="give one set as `eval_dataset`",
            )
        result = super().train(*args, **kwargs)
        if self.objective.needs_validation_logits:
            predicted = self.predict(self.eval_dataset)
            outputs = predicted.predictions
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            result.metrics.update(self.objective.finish(self.model, logits, predicted.label_ids))
        return result

    # -- state ---------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.objective_parts.state_dict(self)
        if self.args.should_save:
            with reporting_failed_writes(Path(output_dir)):
                torch.save(state, Path(output_dir) / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (Path(checkpoint) / STATE).exists():
            state = torch.load(Path(checkpoint) / STATE, weights_only=True, map_location="cpu")
            self.objective_parts.load_state_dict(state)
