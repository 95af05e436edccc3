"""The trivial baseline: its answers, its scores, and the marks of a model that learned nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import f1_score, log_loss

from luthier.data.schemas import IGNORED
from luthier.evaluation.baselines import beside
from luthier.evaluation.counted import guessed_macro_f1
from luthier.evaluation.metrics import bootstrap_interval, score
from luthier.evaluation.prediction import Predictions
from luthier.evaluation.scoring import task_result
from luthier.tasks.base import task_named
from luthier.tasks.running.priors import class_scores

ROWS = 120


@dataclass
class Data:
    schema: Any
    splits: dict[str, Any]
    labels: list[str]
    metrics: tuple[str, ...]
    form: Any = None

    @property
    def kind(self) -> Any:
        return self.schema


def data_of(name: str, train: list[Any], test: list[Any], labels: list[str], metrics: tuple[str, ...]) -> Data:
    task = task_named(name)
    column = task.label_column
    splits = {split: datasets.Dataset.from_dict({column: one}) for split, one in (("train", train), ("test", test))}
    return Data(task, splits, labels, metrics)


def predictions_of(name: str, logits: Any, labels: Any) -> Predictions:
    rows = len(labels)
    nll = np.ones(rows)
    if name != "token_labels":
        logits = np.asarray(logits, np.float32)
        if logits.shape[1] > 1:
            shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            nll = -np.log(shares[np.arange(rows), labels])
    return Predictions(name, logits, labels, np.arange(rows), nll, np.ones(rows, int))


def judged(name: str, data: Data, predictions: Predictions) -> Any:
    return task_result(predictions, data, "test", None, prior=data.schema.prior(data))  # type: ignore[arg-type]


def some_classes(skill: float, labels: int = 2) -> tuple[Data, Predictions]:
    rng = np.random.default_rng(3)
    gold = rng.integers(0, labels, ROWS)
    train = [*rng.integers(0, labels, 80).tolist(), *[0] * 10]
    logits = rng.normal(size=(ROWS, labels))
    logits[np.arange(ROWS), gold] += skill
    metrics = ("accuracy", "macro_f1", "f1") if labels == 2 else ("accuracy", "macro_f1")
    data = data_of("single_sentence", train, gold.tolist(), ["no", "yes", "may be", "never"][:labels], metrics)
    return data, predictions_of("single_sentence", logits, gold)


@pytest.mark.parametrize("labels", [2, 4])
def test_the_baseline_is_the_most_frequent_class_of_the_training_rows(labels: int) -> None:
    data, predictions = some_classes(2.0, labels)
    found = judged("single_sentence", data, predictions)
    train, gold = np.array(data.splits["train"]["label"]), predictions.labels
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(train), 1)), train)
    said = dummy.predict(np.zeros((ROWS, 1)))
    assert found.baselines["accuracy"].score == pytest.approx((said == gold).mean())
    assert found.baselines["macro_f1"].score > score(("macro_f1",), gold, said)["macro_f1"]
    assert found.baselines["accuracy"].answer == "always 'no'"
    shares = np.exp(class_scores(data.schema.prior(data), data.labels))
    smoothed = (np.bincount(train, minlength=labels) + 1) / (len(train) + labels)
    assert shares == pytest.approx(smoothed)
    expected = log_loss(gold, np.tile(shares, (ROWS, 1)), labels=range(labels))
    assert found.baselines["loss"].score == pytest.approx(expected)
    assert all(one.better for one in found.baselines.values())
    assert found.marks == []


def test_macro_f1_is_held_against_guesses_by_the_shares_of_the_training_labels() -> None:
    data, predictions = some_classes(2.0, 4)
    gold, found = predictions.labels, judged("single_sentence", data, predictions).baselines["macro_f1"]
    shares = np.exp(class_scores(data.schema.prior(data), data.labels))
    rng = np.random.default_rng(0)
    drawn = [score(("macro_f1",), gold, rng.choice(4, ROWS, p=shares))["macro_f1"] for _ in range(2000)]
    assert found.score == pytest.approx(np.mean(drawn), abs=0.005)
    assert guessed_macro_f1(gold, np.bincount(gold) / ROWS)(np.ones((1, ROWS)))[0] == pytest.approx(1 / 4)


def test_f1_is_held_against_always_the_label_that_it_counts() -> None:
    data, predictions = some_classes(2.0)
    found = judged("single_sentence", data, predictions)
    expected = f1_score(predictions.labels, np.ones(ROWS, int))
    assert found.baselines["f1"].score == pytest.approx(expected)
    assert found.baselines["f1"].answer == "always 'yes'"
    assert found.about == {"f1": "of the label 'yes'"}


def test_the_interval_of_the_difference_is_paired_by_row() -> None:
    data, predictions = some_classes(0.6)
    found = judged("single_sentence", data, predictions).baselines["accuracy"]
    gold, guess = predictions.labels, predictions.logits.argmax(axis=1)
    gaps = (guess == gold).astype(float) - (gold == 0)
    assert found.difference == pytest.approx(gaps.mean())
    assert found.interval == pytest.approx(bootstrap_interval(lambda index: gaps[index].mean(), ROWS), abs=1e-12)
    assert found.better is (found.interval[0] > 0)


def test_a_model_that_guesses_is_marked() -> None:
    data, predictions = some_classes(0.0)
    assert judged("single_sentence", data, predictions).marks == [
        "not shown to be better than the trivial baseline by accuracy, macro_f1, f1"
    ]


def test_a_model_that_always_says_the_same_is_marked() -> None:
    data, predictions = some_classes(0.0)
    predictions.logits[:] = [0.0, 1.0]
    marks = judged("single_sentence", data, predictions).marks
    assert marks[0] == "predicts one class only: 'yes'"
    assert "by accuracy" in marks[1]


def test_a_lower_loss_is_better_and_a_higher_one_is_not() -> None:
    draws = np.linspace(0.9, 1.1, 1000)
    assert beside("loss", "", 1.0, 1.5, draws, draws + 0.5, 20).better
    assert not beside("loss", "", 1.5, 1.0, draws + 0.5, draws, 20).better
    assert not beside("accuracy", "", 1.0, 1.0, draws, draws, 20).better
    assert not beside("accuracy", "", 1.0, 0.5, None, None, 20).better


def all_alike(right: bool, rows: int = 20) -> Any:
    gold = np.arange(rows) % 2
    data = data_of("single_sentence", [0, 1, 0], gold.tolist(), ["no", "yes"], ("accuracy", "macro_f1", "f1"))
    logits = np.eye(2)[gold if right else 1 - gold] * 4
    return judged("single_sentence", data, predictions_of("single_sentence", logits, gold))


def test_rows_that_are_all_right_or_all_wrong_have_the_exact_binomial_interval() -> None:
    for right in (True, False):
        exact = binomtest(20 * right, 20).proportion_ci(0.95, "exact")
        assert all_alike(right).intervals["accuracy"] == pytest.approx((exact.low, exact.high))
    assert all_alike(True).intervals["accuracy"][0] == pytest.approx(0.83, abs=0.01)


def test_a_score_that_is_no_mean_over_rows_has_no_interval_where_every_row_is_right() -> None:
    found = all_alike(True)
    assert set(found.intervals) == {"accuracy"}
    assert found.marks == ["no interval of macro_f1, f1: every row is right"]
    assert all(low < high for low, high in all_alike(True, 200).intervals.values())


def test_the_same_difference_in_every_draw_is_not_exact() -> None:
    draws = np.ones(1000)
    known = beside("accuracy", "", 1.0, 0.0, draws, draws - 1, 20)
    least = binomtest(20, 20).proportion_ci(0.95, "exact").low
    assert known.interval == pytest.approx((2 * least - 1, 1.0))
    assert known.better
    assert not beside("accuracy", "", 1.0, 0.0, draws, draws - 1, 5).better
    equal = beside("accuracy", "", 1.0, 1.0, draws, draws, 20)
    assert equal.interval == pytest.approx((least - 1, 1 - least))
    assert not equal.better
    other = beside("matthews_correlation", "", 1.0, 0.0, draws, draws - 1, 20)
    assert other.interval is None
    assert other.better
    assert not beside("matthews_correlation", "", 0.0, 0.0, draws, draws, 20).better


def test_numbers_are_held_against_their_mean_and_marked_where_they_hardly_vary() -> None:
    rng = np.random.default_rng(0)
    gold, train = rng.normal(3, 1, ROWS), rng.normal(2.5, 1, 50)
    data = data_of("regression", train.tolist(), gold.tolist(), [], ("pearson", "mean_squared_error"))
    good = predictions_of("regression", (gold + rng.normal(0, 0.3, ROWS))[:, None], gold)
    good.nll = (good.logits[:, 0] - gold) ** 2
    found = judged("regression", data, good)
    mean = DummyRegressor().fit(np.zeros((50, 1)), train).predict(np.zeros((ROWS, 1)))
    assert found.baselines["mean_squared_error"].score == pytest.approx(((mean - gold) ** 2).mean())
    assert found.baselines["loss"].score == pytest.approx(((mean - gold) ** 2).mean())
    assert found.baselines["pearson"].score == 0
    assert found.marks == []
    flat = predictions_of("regression", (3 + rng.normal(0, 0.01, ROWS))[:, None], gold)
    marks = judged("regression", data, flat).marks
    assert marks[0].startswith("nearly constant predictions: their standard deviation is 0.0")
    assert "by pearson" in marks[1]


def test_words_and_choices_have_baselines_of_their_own() -> None:
    tags = [[0, 0, 1], [0, 0], [1, 0, 0]]
    data = data_of("token_labels", tags, tags, ["O", "B-PER"], ("seqeval_f1",))
    labels = [np.array([*row, IGNORED]) for row in tags]
    right = [np.eye(2, dtype=np.float32)[np.where(row < 0, 0, row)] for row in labels]
    found = judged("token_labels", data, predictions_of("token_labels", right, labels))
    assert (found.scores["seqeval_f1"], found.baselines["seqeval_f1"].score) == (1.0, 0.0)
    assert found.baselines["seqeval_f1"].answer == "always 'O'"
    silent = [np.tile(np.array([1, 0], np.float32), (len(row), 1)) for row in labels]
    marks = judged("token_labels", data, predictions_of("token_labels", silent, labels)).marks
    assert marks == ["predicts one class only: 'O'", "not shown to be better than the trivial baseline by seqeval_f1"]
    gold = np.array([2, 1, 2, 0])
    data = data_of("multiple_choice", [2, 2, 1], gold.tolist(), [], ("accuracy",))
    found = judged("multiple_choice", data, predictions_of("multiple_choice", np.eye(3)[gold], gold))
    assert (found.baselines["accuracy"].score, found.baselines["accuracy"].answer) == (0.5, "always choice 3")


def test_without_training_labels_there_is_no_baseline() -> None:
    data, predictions = some_classes(0.0)
    del data.splits["train"]
    assert data.schema.prior(data) == {}
    assert judged("single_sentence", data, predictions).baselines == {}


def test_a_prior_of_other_labels_tells_nothing() -> None:
    assert class_scores({"rows": 3, "shares": {"a": 1.0}}, ["b", "a"]) is None


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_draws_are_kept_as_exactly_as_the_score(scale: float):
    """Of small numbers as of large ones, so that intervals that are read from metrics.json are those of the rows."""
    from luthier.evaluation.scoring import scored_details

    rng = np.random.default_rng(0)
    gold = rng.normal(size=ROWS) * scale
    data = data_of("regression", gold.tolist(), gold.tolist(), [], ("mean_squared_error",))
    predictions = predictions_of("regression", (gold + scale * rng.normal(size=ROWS))[:, None], gold)
    found = judged("regression", data, predictions)
    kept = scored_details(data, "test", found)["drawn_scores"]["test/mean_squared_error"]  # type: ignore[arg-type]
    assert kept == pytest.approx(found.drawn["mean_squared_error"], rel=1e-5, abs=0)
