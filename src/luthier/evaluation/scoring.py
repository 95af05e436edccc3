"""From a model's outputs to the scores of its task, with intervals over what was asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluation.metrics import bootstrap_interval, score
from luthier.evaluation.prediction import IGNORED, LANGUAGE, Predictions

if TYPE_CHECKING:
    from luthier.data.task_data import TaskData

CLASSES = ("single_sentence", "pair", "multiple_choice")


@dataclass(frozen=True)
class Judged:
    """What a task's metrics compare.

    Attributes:
        gold, guess: (N,) class ids or numbers; lists of tag sequences for token labels; reference lists and texts for
            answers.
        groups: (N,) number of the question each row belongs to, or None where every row is asked by itself.
    """

    gold: Any
    guess: Any
    groups: np.ndarray | None = None

    def scores(self, names: tuple[str, ...]) -> dict[str, float]:
        """Every named metric; see `luthier.evaluation.metrics.score`."""
        return score(names, self.gold, self.guess, self.groups)

    @cached_property
    def _members(self) -> list[np.ndarray]:
        groups = np.zeros(0, int) if self.groups is None else self.groups
        return np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])

    @property
    def questions(self) -> int:
        """How many questions there are, which is what an interval draws from."""
        return len(self.gold) if self.groups is None else len(self._members)

    def drawn(self, questions: np.ndarray) -> Judged:
        """The rows of these questions; one that occurs twice counts as two."""
        rows, groups = questions, None
        if self.groups is not None:
            members = [self._members[i] for i in questions]
            rows, groups = np.concatenate(members), np.repeat(np.arange(len(members)), [len(one) for one in members])
        return Judged(_at(self.gold, rows), _at(self.guess, rows), groups)


def judge(predictions: Predictions, task: TaskData, split: str, rows: Any) -> Judged:
    """Gold labels and the model's answers, in the form that the task's metrics take."""
    examples = task.splits[split]
    if "candidate" in examples.column_names:
        return _chosen_candidates(predictions, examples)
    if predictions.schema in CLASSES:
        guess = predictions.logits.argmax(axis=1) if predictions.guesses is None else predictions.guesses
        groups = None
        if "group" in examples.column_names and "question_exact_match" in task.metrics:
            groups = np.unique(list(examples["group"]), return_inverse=True)[1]
        return Judged(predictions.labels.astype(int), guess, groups)
    if predictions.schema == "regression":
        return Judged(predictions.labels.astype(float), predictions.logits[:, 0])
    if predictions.schema == "token_labels":
        return Judged(*_tags(predictions, task.labels))
    from luthier.evaluation.answers import best_answers

    return Judged(*best_answers(predictions, examples, rows))


def task_scores(predictions: Predictions, task: TaskData, split: str, rows: Any) -> dict[str, float]:
    """The task's own metrics, and the mean loss."""
    loss = float(predictions.nll.sum() / max(1, predictions.items.sum()))
    if predictions.schema in LANGUAGE:
        return {"loss": loss, "perplexity": float(np.exp(loss))}
    return judge(predictions, task, split, rows).scores(tuple(task.metrics)) | {"loss": loss}


def task_intervals(
    predictions: Predictions, task: TaskData, split: str, rows: Any, *, draws: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals for the task's metrics, over rows, or over questions where they have several."""
    if predictions.schema in LANGUAGE:
        nll, items = predictions.nll, predictions.items
        drawn = bootstrap_interval(
            lambda i: float(np.exp(nll[i].sum() / items[i].sum())), len(nll), draws=draws, seed=seed
        )
        return {"perplexity": drawn} if drawn else {}
    judged = judge(predictions, task, split, rows)
    found = {}
    for name in task.metrics:
        drawn = bootstrap_interval(_resampled(judged, name), judged.questions, draws=draws, seed=seed)
        if drawn:
            found[name] = drawn
    return found


def _resampled(judged: Judged, name: str) -> Any:
    return lambda index: judged.drawn(index).scores((name,))[name]


def _at(values: Any, index: np.ndarray) -> Any:
    return values[index] if isinstance(values, np.ndarray) else [values[i] for i in index]


def _chosen_candidates(predictions: Predictions, examples: Any) -> Judged:
    """Of the candidates of every question the right ones, and the text of the one that the model prefers."""
    candidates, wrote = list(examples["candidate"]), predictions.guesses
    members: dict[str, list[int]] = {}
    for row, group in enumerate(examples["group"]):
        members.setdefault(group, []).append(row)
    gold, guess = [], []
    for rows in members.values():
        gold.append([candidates[i] for i in rows if predictions.labels[i] == 1] or [""])
        if wrote is not None and wrote.dtype == object:
            guess.append(str(wrote[rows[0]]))
            continue
        right = predictions.logits[rows, 1] - predictions.logits[rows, 0] if wrote is None else wrote[rows] == 1
        guess.append(candidates[rows[int(right.argmax())]])
    return Judged(gold, guess)


def _tags(predictions: Predictions, labels: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    gold, guess = [], []
    for row_logits, row_labels in zip(predictions.logits, predictions.labels, strict=True):
        kept = row_labels != IGNORED
        gold.append([labels[i] for i in row_labels[kept]])
        guess.append([labels[i] for i in row_logits[kept].argmax(axis=1)])
    return gold, guess
