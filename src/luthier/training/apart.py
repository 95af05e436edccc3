"""An optimiser step of some of a job's parameters alone, on the batches at hand, before the trainer's own step."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any


def step_apart(trainer: Any) -> None:
    """Run the batches of the step that begins, and update the parameters that require a gradient now.

    The others keep their weights and what the optimiser knows of them. Processes, guards and parts see a step like any
    other: gradients are averaged, clipped, checked to be finite, and given to `after_backward`.

    Args:
        trainer: a `LuthierTrainer` in `step_begin`, whose own step on the same batches follows.
    """
    model, state = trainer.model_wrapped, trainer.accelerator.gradient_state
    synchronised = state.sync_gradients
    for number, batch in enumerate(trainer.batches, 1):
        last = number == len(trainer.batches)
        state._set_sync_gradients(last)
        with nullcontext() if last else trainer.accelerator.no_sync(model):
            trainer._tr_loss += trainer.training_step(model, dict(batch), trainer.items)
    trainer._get_grad_norm(model, trainer._clip_grad_norm(model) if trainer.args.max_grad_norm > 0 else None)
    trainer.optimizer.step()
    model.zero_grad()
    trainer._losses = []
    state._set_sync_gradients(synchronised)
