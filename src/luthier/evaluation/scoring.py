"""From a model's outputs to the scores of its task, with intervals over what was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluation.metrics import bootstrap_interval, score
from luthier.tasks.base import Task, task_named

if TYPE_CHECKING:
    from luthier.data.task_data import TaskData
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions

Statistic = Callable[[np.ndarray], float]


def judge(predictions: Predictions, data: TaskData, split: str, rows: Any) -> Judged | None:
    """Gold labels and the model's answers, in the form that the task's metrics take; see `Task.judge`."""
    return task_named(predictions.schema).judge(predictions, data, data.splits[split], rows)


def judged_scores(task: Task, judged: Judged, names: tuple[str, ...]) -> dict[str, float]:
    """Every named metric, the task's own ones included; see `luthier.evaluation.metrics.score`."""
    own = task.own_metrics()
    known = score(tuple(name for name in names if name not in own), judged.gold, judged.guess, judged.groups)
    return {name: own[name](judged.gold, judged.guess) if name in own else known[name] for name in names}


def task_scores(predictions: Predictions, data: TaskData, split: str, rows: Any) -> dict[str, float]:
    """The task's metrics, and the mean loss."""
    loss = float(predictions.nll.sum() / max(1, predictions.items.sum()))
    judged = judge(predictions, data, split, rows)
    if judged is None:
        return {"loss": loss, "perplexity": float(np.exp(loss))}
    return judged_scores(task_named(predictions.schema), judged, tuple(data.metrics)) | {"loss": loss}


def task_intervals(
    predictions: Predictions, data: TaskData, split: str, rows: Any, *, draws: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals for the task's metrics, over rows, or over questions where they have several."""
    judged = judge(predictions, data, split, rows)
    if judged is None:
        statistics, asked = {"perplexity": _perplexity(predictions)}, len(predictions.nll)
    else:
        task = task_named(predictions.schema)
        statistics, asked = {name: _resampled(task, judged, name) for name in data.metrics}, judged.questions
    intervals = {}
    for name, statistic in statistics.items():
        interval = bootstrap_interval(statistic, asked, draws=draws, seed=seed)
        if interval:
            intervals[name] = interval
    return intervals


def _perplexity(predictions: Predictions) -> Statistic:
    nll, items = predictions.nll, predictions.items
    return lambda index: float(np.exp(nll[index].sum() / items[index].sum()))


def _resampled(task: Task, judged: Judged, name: str) -> Statistic:
    return lambda index: judged_scores(task, judged.drawn(index), (name,))[name]
