"""From a model's outputs to the scores of its task, with intervals over what was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.rows.identity import rows_digest
from luthier.evaluation.metrics import percentiles, score
from luthier.report.intervals import redrawn_rows
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


def task_draws(
    predictions: Predictions, data: TaskData, split: str, rows: Any, *, draws: int
) -> dict[str, list[float]]:
    """The task's metrics in draws of rows, or of questions where they have several; none for fewer than two.

    Every model is given the same draws of the same rows (`luthier.report.intervals`), so that two can be compared.
    """
    judged = judge(predictions, data, split, rows)
    if judged is None:
        statistics, asked = {"perplexity": _perplexity(predictions)}, len(predictions.nll)
    else:
        task = task_named(predictions.schema)
        statistics, asked = {name: _resampled(task, judged, name) for name in data.metrics}, judged.questions
    if asked < 2:
        return {}
    return {name: [statistic(drawn) for drawn in redrawn_rows(asked, draws)] for name, statistic in statistics.items()}


def draws_intervals(drawn: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of what `task_draws` gave."""
    return {name: percentiles(found) for name, found in drawn.items()}


def scored_details(data: TaskData, split: str, drawn: dict[str, list[float]]) -> dict[str, Any]:
    """What a page needs to compare a model with others: which rows were scored, and the scores in draws of them."""
    return {
        "scored_rows": {split: rows_digest(data.splits[split], data.labels)},
        "drawn_scores": {f"{split}/{name}": [round(one, 6) for one in found] for name, found in drawn.items()},
    }


def _perplexity(predictions: Predictions) -> Statistic:
    nll, items = predictions.nll, predictions.items
    return lambda index: float(np.exp(nll[index].sum() / items[index].sum()))


def _resampled(task: Task, judged: Judged, name: str) -> Statistic:
    return lambda index: judged_scores(task, judged.drawn(index), (name,))[name]
