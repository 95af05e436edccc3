"""Losses and gradients have to be finite before the optimiser may use them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from luthier.errors import TrainingError
from luthier.storage.ranks import agree, gathered
from luthier.training.row_gradient import holders_of_gradients
from luthier.training.split import whole


def check_finite(
    losses: Sequence[Tensor],
    norm: Tensor | float,
    rows: Sequence[list[int]],
    model: nn.Module,
    step: int,
    *,
    scaled: bool,
    precision: str,
) -> float:
    """Read the losses and the gradient's norm of an optimiser step, all at once: every reading waits for the
    accelerator.

    Args:
        losses: of the step's passes, scalars.
        norm: of the gradient, after all processes have added theirs.
        rows: numbers of the rows of every pass.
        model: with the gradients.
        step: its number, for the error.
        scaled: whether a loss scaler skips steps without a finite gradient itself, as under float16.
        precision: of the forward pass, as settings call it.

    Returns:
        The gradient's norm.

    Raises:
        TrainingError: one of them is not finite; in every process, and with the rows of the pass where a loss is not.
    """
    device = losses[0].device if losses else None
    numbers = [*losses, whole(torch.as_tensor(norm, device=device))]
    *read, length = torch.stack([number.detach().to(device, torch.float32) for number in numbers]).tolist()
    finite = [math.isfinite(loss) for loss in read]
    agree(None if all(finite) else _not_finite("loss", rows[finite.index(False)], model, step, precision))
    if not scaled and not math.isfinite(length):
        every = [row for own in gathered(list(rows)) for part in own for row in part]
        agree(_not_finite("gradient", every, model, step, precision))
    return float(length)


def _not_finite(what: str, rows: list[int], model: nn.Module, step: int, precision: str) -> TrainingError:
    bad = _without_finite_gradient(model) if what == "gradient" else None
    detail = f"; first seen in {bad}" if bad else ""
    or_else = "" if precision == "float32" else ", or use precision: float32"
    listed = ", ".join(map(str, rows[:16])) + (" …" if len(rows) > 16 else "")
    return TrainingError(
        f"the {what} is not finite at step {step}{detail}; nothing was updated by that step",
        where=f"training rows {listed}" if rows else None,
        fix=f"look at those rows, or lower learning_rate{or_else}; the last checkpoint is whole",
    )


def _without_finite_gradient(model: nn.Module) -> str | None:
    """The first parameter of which a gradient is not finite, in any process."""
    names, holders = [n for n, _ in model.named_parameters()], holders_of_gradients(model.parameters())
    pairs = zip(names, holders, strict=True)
    found = {name: whole(holder.grad.isfinite().all()) for name, holder in pairs if holder.grad is not None}
    return next((name for name, finite in found.items() if not finite), None)
