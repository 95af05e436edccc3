"""What the metrics of a task compare."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from luthier.data.schemas import IGNORED
from luthier.tasks.running.predicting import Predictions


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


def _at(values: Any, index: np.ndarray) -> Any:
    return values[index] if isinstance(values, np.ndarray) else [values[i] for i in index]


def judged_classes(predictions: Predictions, examples: Any, metrics: tuple[str, ...]) -> Judged:
    """The class of every row, or, where rows are candidates, the text of the one that is chosen."""
    if "candidate" in examples.column_names:
        return _chosen_candidates(predictions, examples)
    guess = predictions.logits.argmax(axis=1) if predictions.guesses is None else predictions.guesses
    groups = None
    if "group" in examples.column_names and "question_exact_match" in metrics:
        groups = np.unique(list(examples["group"]), return_inverse=True)[1]
    return Judged(predictions.labels.astype(int), guess, groups)


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


def judged_tags(predictions: Predictions, labels: list[str]) -> Judged:
    """The tags of every row's words."""
    gold, guess = [], []
    for row_logits, row_labels in zip(predictions.logits, predictions.labels, strict=True):
        kept = row_labels != IGNORED
        gold.append([labels[i] for i in row_labels[kept]])
        guess.append([labels[i] for i in row_logits[kept].argmax(axis=1)])
    return Judged(gold, guess)
