"""Scores of whole questions: MultiRC's exact match and ReCoRD's F1 and EM against few-line references."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest

from luthier.errors import RecipeError
from luthier.evaluation.metrics import score
from luthier.evaluation.prediction import Predictions
from luthier.evaluation.scoring import draws_intervals, judge, judged_scores, task_draws, task_scores
from luthier.tasks.base import task_named

MULTIRC = ("f1", "question_exact_match", "accuracy")
RECORD = ("squad_f1", "exact_match")


def task_of(examples: dict[str, list[Any]], metrics: tuple[str, ...]) -> Any:
    splits = {"validation": datasets.Dataset.from_dict(examples)}
    return SimpleNamespace(splits=splits, metrics=metrics, labels=["False", "True"])


def predictions_of(logits: np.ndarray, labels: list[int], guesses: np.ndarray | None = None) -> Predictions:
    rows = len(labels)
    return Predictions(
        schema="pair",
        logits=logits,
        labels=np.array(labels),
        rows=np.arange(1, rows + 1),
        nll=np.ones(rows),
        items=np.ones(rows, int),
        guesses=guesses,
    )


@pytest.fixture
def multirc() -> tuple[Any, Predictions, list[str], list[int], list[int]]:
    draw = random.Random(0)
    groups = [f"{i}-{q}" for i in range(6) for q in range(3) for _ in range(draw.randint(1, 4))]
    draw.shuffle(groups)
    gold = [draw.randint(0, 1) for _ in groups]
    guess = [g if draw.random() < 0.8 else 1 - g for g in gold]
    logits = np.array([[-g, g] for g in guess], np.float32)
    task = task_of({"group": groups, "label": gold}, MULTIRC)
    return task, predictions_of(logits, gold), groups, gold, guess


def test_multirc_by_its_definition(multirc):
    task, predictions, groups, gold, guess = multirc
    found = task_scores(predictions, task, "validation", None)
    right: dict[str, bool] = {}
    for group, a, b in zip(groups, gold, guess, strict=True):
        right[group] = right.get(group, True) and a == b
    true_positive = sum(a == b == 1 for a, b in zip(gold, guess, strict=True))
    assert found["question_exact_match"] == pytest.approx(sum(right.values()) / len(right))
    assert found["f1"] == pytest.approx(2 * true_positive / (sum(gold) + sum(guess)))
    assert 0 < found["question_exact_match"] < found["accuracy"] < 1
    assert found["loss"] == 1


def test_intervals_are_over_questions(multirc):
    task, predictions, groups, *_ = multirc
    judged = judge(predictions, task, "validation", None)
    assert judged.questions == len(set(groups))
    twice = judged.drawn(np.array([2, 2, 5]))
    first = groups.index(sorted(set(groups))[2])
    size = groups.count(groups[first])
    assert twice.groups.tolist()[: 2 * size] == [0] * size + [1] * size
    assert judged_scores(task_named("pair"), twice, ("question_exact_match",))["question_exact_match"] in (
        0,
        1 / 3,
        2 / 3,
        1,
    )
    low, high = draws_intervals(task_draws(predictions, task, "validation", None, draws=200), 200)[
        "question_exact_match"
    ]
    assert low < judged_scores(task_named("pair"), judged, MULTIRC)["question_exact_match"] < high


def test_questions_need_a_column_that_joins_their_answers():
    with pytest.raises(RecipeError, match="needs a column `group`"):
        score(MULTIRC, np.array([0, 1]), np.array([0, 1]))


def normal(text: str) -> str:
    text = re.sub(r"\b(a|an|the)\b", " ", "".join(c for c in text.lower() if c not in string.punctuation))
    return " ".join(text.split())


def overlap(a: str, b: str) -> float:
    x, y = normal(a).split(), normal(b).split()
    same = sum((Counter(x) & Counter(y)).values())
    return 2 * same / (len(x) + len(y)) if same else 0.0


RECORD_ROWS = [  # group, candidate, right, preference
    ("0-0", "the United States", 1, 0.1),
    ("0-0", "United Nations", 0, 0.9),
    ("0-0", "US", 1, 0.2),
    ("0-1", "Anna", 1, 3.0),
    ("0-1", "Bo Diddley", 0, 2.0),
    ("1-0", "Chad", 0, -1.0),
    ("1-0", "Dee", 0, -2.0),
]


def record_task() -> tuple[Any, Predictions]:
    group, candidate, label, preference = (list(column) for column in zip(*RECORD_ROWS, strict=True))
    logits = np.stack([np.zeros(len(label)), preference], axis=1)
    return task_of({"group": group, "candidate": candidate, "label": label}, RECORD), predictions_of(logits, label)


def test_record_by_its_definition():
    task, predictions = record_task()
    found = task_scores(predictions, task, "validation", None)
    best = {"0-0": "United Nations", "0-1": "Anna", "1-0": "Chad"}
    answers = {"0-0": ["the United States", "US"], "0-1": ["Anna"], "1-0": [""]}
    f1 = [max(overlap(a, best[g]) for a in answers[g]) for g in best]
    assert found["squad_f1"] == pytest.approx(sum(f1) / 3)
    assert 1 / 3 < found["squad_f1"] < 1
    assert found["exact_match"] == pytest.approx(1 / 3)


def test_record_of_a_model_that_writes():
    task, predictions = record_task()
    predictions.logits = None
    predictions.guesses = np.array(["the US", *["x"] * 2, "anna", "x", "Chad", "x"], dtype=object)
    assert task_scores(predictions, task, "validation", None)["exact_match"] == pytest.approx(2 / 3)


def test_a_text_that_is_no_label_is_wrong_and_no_class_of_its_own():
    gold, guess = np.array([0, 0, 1, 1]), np.array([0, -1, 1, -1])
    found = score(("accuracy", "f1", "macro_f1", "matthews_correlation"), gold, guess)
    assert found["accuracy"] == 0.5
    assert found["f1"] == found["macro_f1"] == pytest.approx(2 / 3)
    assert -1 <= found["matthews_correlation"] <= 1
