"""Which span of its context answers a question, over windows, and whether any does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from luthier.tasks.base import task_named
from luthier.tasks.running.answers import best_answers, without_answers
from luthier.tasks.running.predicting import Predictions

CONTEXT = "Anna left Rome"
TASK = task_named("extractive_qa")
OFFSETS = [[-1, -1], [0, 4], [5, 9], [10, 14], [-1, -1]]


def predictions(*windows: tuple[list[float], list[float]], rows: list[int]) -> Predictions:
    logits = np.empty(len(windows), object)
    for place, (start, end) in enumerate(windows):
        logits[place] = (np.array(start), np.array(end))
    count = np.ones(len(rows))
    return Predictions("extractive_qa", logits, None, np.array(rows), count, count)


def examples(*texts: list[str]) -> list[dict[str, Any]]:
    return [{"row": n, "context": CONTEXT, "answers": {"text": text}} for n, text in enumerate(texts, 1)]


def reference(windows: list[tuple[list[float], list[float]]], *, none: bool) -> str:
    """The best span of all windows, or none where the first token of the least sure window is above it."""
    within = [(a, b) for a in (1, 2, 3) for b in range(a, 4)]
    spans = [(s[a] + e[b], CONTEXT[OFFSETS[a][0] : OFFSETS[b][1]]) for s, e in windows for a, b in within]
    best = max(spans)
    return "" if none and min(s[0] + e[0] for s, e in windows) > best[0] else best[1]


@pytest.mark.parametrize("none", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_span_over_windows_answers_or_nothing_does(seed: int, count: int, none: bool) -> None:
    draw = np.random.default_rng(seed)
    windows = [tuple(draw.normal(size=(2, 5)).tolist()) for _ in range(count)]
    encoded = [{"offsets": OFFSETS}] * count
    _, guess = best_answers(predictions(*windows, rows=[1] * count), examples(["left"]), encoded, none=none)
    assert guess == [reference(windows, none=none)]


SURE = ([9.0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0])
LEFT = ([0.0, 0, 9, 0, 0], [0.0, 0, 9, 0, 0])


def judged(*texts: list[str]) -> list[str]:
    rows = Dataset.from_list(examples(*texts))
    found = TASK.judge(predictions(SURE, LEFT, rows=[1, 2]), None, rows, [{"offsets": OFFSETS}] * 2)  # type: ignore[arg-type]
    assert found is not None
    return list(found.guess)


def test_questions_may_have_no_answer_where_some_of_those_that_are_judged_have_none() -> None:
    assert judged([], ["left"]) == ["", "left"]
    assert judged(["Rome"], ["left"])[0]


def test_questions_may_have_no_answer_where_some_of_the_training_rows_had_none() -> None:
    told, encoded = predictions(SURE, LEFT, rows=[1, 2]), [{"offsets": OFFSETS}] * 2
    rows: Any = [{"row": n, "question": "Who?", "context": CONTEXT} for n in (1, 2)]
    for prior, first in (({"rows": 9, "unanswered": 0.5}, ""), (None, "Anna")):
        answers = [row["answer"] for row in TASK.describe(told, rows, encoded, SimpleNamespace(prior=prior))]  # type: ignore[arg-type]
        assert (answers[0] == "") is (first == "")
        assert answers[1] == "left"


def test_scores_are_held_against_never_answering() -> None:
    def prior(*texts: list[str]) -> dict[str, Any]:
        return dict(TASK.prior(SimpleNamespace(splits={"train": Dataset.from_list(examples(*texts))})))  # type: ignore[arg-type]

    assert prior(["Anna"], ["left"]) == {}
    assert prior([], ["left"], ["Rome"], []) == {"rows": 4, "unanswered": 0.5}
    never = without_answers(predictions(SURE, LEFT, rows=[1, 2]))
    assert best_answers(never, examples([], []), [{"offsets": OFFSETS}] * 2, none=True)[1] == ["", ""]
