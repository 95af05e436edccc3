"""Lets only selected entries of the trainable parameters move."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from luthier.data.batches.sharing import FILLER
from luthier.errors import TrainingError
from luthier.objectives.part import Part
from luthier.objectives.scope import block_parameters, trainable_parameters
from luthier.objectives.step import RandomState
from luthier.robustness.selection import MaskPolicy, Selection

logger = logging.getLogger(__name__)


class SelectiveTraining(Part):
    """Masks gradients or updates by importance (RoAST, section 3; ChildTuning).

    Args:
        policy: from importance to kept entries.
        importance: squares of a step's gradient while training, or of every example's by a pass before each epoch.
        scope: which parameters can be masked.
        batches: of the pass before training; None takes all.
        skip_first: leave the first gradient of every round out.
        resample: optimiser steps between draws; None draws once an epoch.
        stage: what is masked, the gradient or the optimiser's update.
        decay_masked: whether decoupled weight decay acts on masked entries.
        renew_ranks: whether every epoch has ranks and a draw of its own; if not, those from before training stay.
    """

    def __init__(
        self,
        policy: MaskPolicy,
        *,
        importance: Literal["batch_gradient", "per_example"] = "batch_gradient",
        scope: Literal["blocks", "trainable"] = "blocks",
        batches: int | None = None,
        skip_first: bool = False,
        resample: int | None = None,
        stage: Literal["gradient", "update"] = "gradient",
        decay_masked: bool = True,
        renew_ranks: bool = True,
    ) -> None:
        self.policy, self.importance, self.scope, self.batches = policy, importance, scope, batches
        self.skip_first, self.resample, self.stage, self.decay_masked = skip_first, resample, stage, decay_masked
        self.renew_ranks = renew_ranks
        self.selection: Selection | None = None
        self._epoch: int | None = None
        self._loaded: dict[str, Any] | None = None
        self._before: list[Tensor] = []

    def begin(self, trainer: Any) -> None:
        """Collect the maskable parameters, and measure their importance unless a checkpoint has it.

        Raises:
            TrainingError: nothing can be masked, or parameters are sharded over processes.
        """
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            raise TrainingError("selective training needs whole gradients", fix="train without DeepSpeed and FSDP")
        in_scope = block_parameters if self.scope == "blocks" else trainable_parameters
        found = in_scope(trainer.main_model)
        if not found:
            raise TrainingError(
                "no trainable parameter lies inside the transformer blocks, so there is nothing to mask",
                fix="use importance_scope: trainable, another tuning method, or objective adv_embed",
            )
        self.selection = Selection(
            list(found.values()), self.policy, seed=trainer.args.seed, skip_first=self.skip_first
        )
        if self._loaded is not None:
            self._epoch = self._loaded["epoch"]
            self.selection.load_state_dict(self._loaded["selection"])
            self._loaded = None
        else:
            self._measure(trainer)

    def _measure(self, trainer: Any) -> None:
        assert self.selection is not None
        if self.policy.needs_importance:
            measure_importance(
                trainer, self.selection, batches=self.batches, per_example=self.importance == "per_example"
            )
        self.selection.renew()

    def epoch_begin(self, trainer: Any, epoch: int) -> None:
        assert self.selection is not None
        if self._epoch is None or self._epoch >= epoch:
            return
        self._epoch = None
        if self.importance == "per_example":
            self._measure(trainer)
        else:
            self.selection.renew()

    def step_begin(self, trainer: Any) -> None:
        assert self.selection is not None
        if self.resample is not None:
            number = trainer.state.global_step // self.resample
            if self.selection.draw_key[1] != number:
                self.selection.draw(number)

    def after_backward(self, trainer: Any) -> None:
        if not self.renew_ranks:
            return
        assert self.selection is not None
        self._epoch = int(trainer.state.epoch or 0.0)
        if self.importance == "per_example" or not self.policy.needs_importance:
            return
        gradients = [p.grad for p in self.selection.parameters]
        scaler = trainer.accelerator.scaler
        if scaler is None:
            self.selection.observe(gradients)
        elif all(bool(g.isfinite().all()) for g in gradients if g is not None):
            self.selection.observe(gradients, scaler.get_scale())

    def before_update(self, trainer: Any) -> None:
        assert self.selection is not None
        if self.stage == "gradient":
            self.selection.mask_gradients()
        if self.stage == "update" or not self.decay_masked:
            self._before = [p.detach().clone() for p in self.selection.parameters]

    def after_update(self, trainer: Any) -> None:
        if not self._before:
            return
        assert self.selection is not None
        before, self._before = self._before, []
        if trainer.accelerator.optimizer_step_was_skipped:
            return
        decay = _decay_factors(trainer.optimizer)
        rows = zip(self.selection.parameters, before, self.selection.masks(), self.selection.factors(), strict=True)
        with torch.no_grad():
            for p, old, mask, factor in rows:
                decayed = old * decay.get(id(p), 1.0)
                floor = decayed if self.decay_masked else torch.where(mask, decayed, old)
                kept = factor if self.stage == "update" else 1.0
                p.copy_(floor + kept * (p - decayed))

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        assert self.selection is not None
        return {"epoch": self._epoch, "selection": self.selection.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loaded = state


def _decay_factors(optimizer: Any) -> dict[int, float]:
    """1 - lr * weight_decay by parameter id: what a step of decoupled decay multiplies weights by."""
    return {
        id(p): 1 - group["lr"] * group.get("weight_decay", 0.0)
        for group in optimizer.param_groups
        for p in group["params"]
    }


def measure_importance(
    trainer: Any, selection: Selection, *, batches: int | None = None, per_example: bool = False
) -> None:
    """One pass over the training data with the clean task loss and dropout, without any update (section 3).

    Training is not disturbed: random generators and rows that know where they are are put back, and gradients don't
    reach `.grad`.

    Args:
        trainer: as `Part` describes it.
        selection: what observes the gradients.
        batches: to look at; None takes the whole training set.
        per_example: square every example's gradient instead of the batch's.
    """
    logger.info("measuring gradient importance over %s", f"{batches} batches" if batches else "the training set")
    trainer.main_model.train()
    with _aside(trainer):
        for number, inputs in enumerate(trainer.get_train_dataloader()):
            if number == batches:
                break
            inputs = {k: v for k, v in trainer._prepare_inputs(inputs).items() if k not in ("row", FILLER)}
            for part in _examples(inputs) if per_example else [inputs]:
                with trainer.compute_loss_context_manager():
                    step = trainer.step_on(trainer.main_model, part, None)
                    gradients = step.gradients(step.clean.loss, selection.parameters)
                # Half precision overflows now and then; the trainer leaves out such a step, too.
                if trainer.accelerator.scaler is None or all(bool(g.isfinite().all()) for g in gradients):
                    selection.observe(gradients)


@contextmanager
def _aside(trainer: Any) -> Iterator[None]:
    state, loaders = RandomState(), list(trainer.accelerator._dataloaders)
    stream = trainer.train_dataset if getattr(trainer, "stateful", False) else None
    position = None if stream is None else stream.state_dict()
    torch.manual_seed(trainer.args.seed)
    try:
        yield
    finally:
        state.restore()
        if stream is not None:
            stream.load_state_dict(position)
        trainer.accelerator._dataloaders[:] = loaders


def _examples(inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    size = next(len(v) for v in inputs.values() if isinstance(v, Tensor))
    for i in range(size):
        yield {k: v[i : i + 1] if isinstance(v, Tensor) and len(v) == size else v for k, v in inputs.items()}
