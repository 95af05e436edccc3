"""From a model's outputs to the scores of its task, with intervals over what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluation.metrics import percentiles, score
from luthier.evaluation.resampling import Statistic, ratio_of, resampled, statistic_of
from luthier.tasks.base import Task, task_named

if TYPE_CHECKING:
    from luthier.data.task_data import TaskData
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions


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
        statistics, asked = {"perplexity": perplexity_of(predictions)}, len(predictions.nll)
    else:
        task = task_named(predictions.schema)
        statistics, asked = statistics_of(task, judged, tuple(data.metrics)), judged.questions
    found = resampled(statistics, asked, draws=draws, seed=seed)
    return {name: percentiles(drawn) for name, drawn in found.items()}


def statistics_of(task: Task, judged: Judged, names: tuple[str, ...]) -> dict[str, Statistic]:
    """Every named metric for many draws of questions at once; the task's own ones are computed draw by draw."""
    own = task.own_metrics()
    known = {name: None if name in own else statistic_of(name, judged) for name in names}
    return {name: one or _one_by_one(task, judged, name) for name, one in known.items()}


def perplexity_of(predictions: Predictions) -> Statistic:
    """The perplexity of many draws of rows at once."""
    mean_loss = ratio_of(predictions.nll, predictions.items)
    return lambda counts: np.exp(mean_loss(counts))


def _one_by_one(task: Task, judged: Judged, name: str) -> Statistic:
    def statistic(counts: np.ndarray) -> np.ndarray:
        draws = (judged.drawn(np.repeat(np.arange(len(one)), one.astype(int))) for one in counts)
        return np.array([judged_scores(task, drawn, (name,))[name] for drawn in draws])

    return statistic
