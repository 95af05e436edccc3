"""From a model's outputs to the scores of its task, with intervals over rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluation.metrics import METRICS, bootstrap_interval, score
from luthier.evaluation.prediction import IGNORED, Predictions

if TYPE_CHECKING:
    from luthier.data.loading import TaskData

CLASSES = ("single_sentence", "pair", "multiple_choice")


def gold_and_guess(predictions: Predictions, task: TaskData, split: str, rows: Any) -> tuple[Any, Any]:
    """Gold labels and the model's answers, in the form that the task's metrics take.

    Returns:
        (N,) class ids or numbers; lists of tag sequences for token labels; reference lists and texts for answers.
    """
    if predictions.schema in CLASSES:
        return predictions.labels.astype(int), predictions.logits.argmax(axis=1)
    if predictions.schema == "regression":
        return predictions.labels.astype(float), predictions.logits[:, 0]
    if predictions.schema == "token_labels":
        return _tags(predictions, task.labels)
    return _answers(predictions, task, split, rows)


def task_scores(predictions: Predictions, task: TaskData, split: str, rows: Any) -> dict[str, float]:
    """The task's own metrics, and the mean loss."""
    loss = float(predictions.nll.sum() / max(1, predictions.items.sum()))
    if predictions.schema in ("prompt_response", "plain_text"):
        return {"loss": loss, "perplexity": float(np.exp(loss))}
    gold, guess = gold_and_guess(predictions, task, split, rows)
    return score(tuple(task.metrics), gold, guess) | {"loss": loss}


def task_intervals(
    predictions: Predictions, task: TaskData, split: str, rows: Any, *, draws: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over rows for the task's metrics."""
    if predictions.schema in ("prompt_response", "plain_text"):
        nll, items = predictions.nll, predictions.items
        drawn = bootstrap_interval(
            lambda i: float(np.exp(nll[i].sum() / items[i].sum())), len(nll), draws=draws, seed=seed
        )
        return {"perplexity": drawn} if drawn else {}
    gold, guess = gold_and_guess(predictions, task, split, rows)
    found = {}
    for name in task.metrics:
        metric = METRICS[name]
        drawn = bootstrap_interval(_resampled(metric, gold, guess), len(gold), draws=draws, seed=seed)
        if drawn:
            found[name] = drawn
    return found


def _resampled(metric: Any, gold: Any, guess: Any) -> Any:
    return lambda index: metric(_at(gold, index), _at(guess, index))


def _at(values: Any, index: np.ndarray) -> Any:
    return values[index] if isinstance(values, np.ndarray) else [values[i] for i in index]


def _tags(predictions: Predictions, labels: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    gold, guess = [], []
    for row_logits, row_labels in zip(predictions.logits, predictions.labels, strict=True):
        kept = row_labels != IGNORED
        gold.append([labels[i] for i in row_labels[kept]])
        guess.append([labels[i] for i in row_logits[kept].argmax(axis=1)])
    return gold, guess


def _answers(predictions: Predictions, task: TaskData, split: str, rows: Any) -> tuple[list[list[str]], list[str]]:
    from luthier.evaluation.answers import best_answers

    return best_answers(predictions, task.splits[split], rows)
