"""Runs a model over the encoded rows of a task's data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.tasks.base import task_of
from luthier.tasks.running.predicting import Predictions, model_inputs, predict_rows

if TYPE_CHECKING:
    from luthier.data.task_data import TaskData

__all__ = ["Predictions", "model_inputs", "predict_rows", "predict_task"]


def predict_task(
    model: nn.Module,
    rows: Any,
    data: TaskData,
    tokenizer: Any,
    *,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Feed a split's encoded rows through the model, in the way its task is posed; see `predict_rows`."""
    return task_of(data).predict(model, rows, tokenizer, batch_size=batch_size, on_batch=on_batch)
