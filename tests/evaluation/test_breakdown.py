"""Counts, confusions, scores by class and mistakes, against scikit-learn and by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as reference_matrix
from sklearn.metrics import precision_recall_fscore_support

from luthier.data.schemas import IGNORED
from luthier.evaluation.breakdown import MOST_CLASSES, MOST_MISTAKES, answered, confusion_matrix, sections_of
from luthier.evaluation.prediction import Predictions
from luthier.report.sections import Heatmap, Section
from luthier.tasks.base import task_named


def data_of(name: str, examples: dict[str, list[Any]], labels: list[str]) -> Any:
    return SimpleNamespace(
        splits={"test": datasets.Dataset.from_dict(examples)}, labels=labels, schema=task_named(name)
    )


def predictions_of(logits: Any, labels: Any, guesses: np.ndarray | None = None) -> Predictions:
    rows = len(labels)
    return Predictions(
        "single_sentence", logits, labels, np.arange(rows), np.ones(rows), np.ones(rows, int), 0, guesses
    )


def classes(count: int, rows: int = 200) -> tuple[Predictions, Any]:
    rng = np.random.default_rng(count)
    gold = rng.integers(0, count, rows)
    logits = rng.normal(size=(rows, count)).astype(np.float32)
    logits[np.arange(rows), gold] += 1
    examples = {
        "text": [f"<b>{n}</b> " + "x" * 400 for n in range(rows)],
        "label": gold,
        "row": list(range(1, rows + 1)),
    }
    return predictions_of(logits, gold), data_of("single_sentence", examples, [f"c{n}" for n in range(count)])


def titled(sections: list[Section], title: str) -> Section:
    return next(section for section in sections if section.title == title)


def test_scores_by_class_and_confusions_are_those_of_scikit_learn() -> None:
    predictions, data = classes(4)
    guess = predictions.logits.argmax(axis=1)
    sections = sections_of(predictions, data, "test", None)
    table = titled(sections, "Scores by class").table
    assert table is not None
    expected = dict(
        zip(data.labels, zip(*precision_recall_fscore_support(predictions.labels, guess), strict=True), strict=True)
    )
    assert {row[0]: row[1:5] for row in table.rows} == {k: pytest.approx(list(v)) for k, v in expected.items()}
    assert [row[5] for row in table.rows] == [
        int((guess == data.labels.index(str(row[0]))).sum()) for row in table.rows
    ]
    plot = titled(sections, "Confusion matrix").plot
    assert isinstance(plot, Heatmap)
    assert np.array_equal(plot.values, reference_matrix(predictions.labels, guess))


def test_many_classes_are_taken_together_and_nothing_is_lost() -> None:
    predictions, data = classes(30)
    sections = sections_of(predictions, data, "test", None)
    plot, table = titled(sections, "Confusion matrix").plot, titled(sections, "Scores by class").table
    assert isinstance(plot, Heatmap)
    assert table is not None
    assert len(plot.rows) == len(plot.columns) == MOST_CLASSES + 1
    assert sum(map(sum, plot.values)) == 200
    assert plot.rows[-1] == "10 others"
    assert plot.apart == ((MOST_CLASSES, MOST_CLASSES),)  # a sum of a hundred cells is left out of the scale of colours
    assert "10 are one row" in titled(sections, "Confusion matrix").text
    shown, folded = table.rows[: -table.folded], table.rows[-table.folded :]
    assert sum(row[4] for row in shown) == sum(row[5] for row in shown) == 200
    assert (len(shown), shown[-1][0]) == (MOST_CLASSES + 1, "10 other classes")
    assert {row[0] for row in (*shown[:-1], *folded)} == set(data.labels)
    assert min(row[4] for row in shown[:-1]) >= max(row[4] for row in folded)
    scores = [row[3] for row in folded if row[3] is not None]
    assert scores == sorted(scores)


def test_the_most_confident_mistakes_come_first_with_their_text_cut() -> None:
    predictions, data = classes(3)
    section = titled(sections_of(predictions, data, "test", None), "Most confident mistakes")
    wrong = predictions.logits.argmax(axis=1) != predictions.labels
    confidence = np.sort(predictions.probabilities.max(axis=1)[wrong])[::-1][:MOST_MISTAKES]
    samples: Any = section.samples
    assert [float(one["answer"].rpartition("(")[2][:-1]) for one in samples] == [round(float(c), 3) for c in confidence]
    first = int(samples[0]["row"]) - 1
    assert samples[0]["label"] == f"c{predictions.labels[first]}"
    assert samples[0]["text"].startswith(f"<b>{first}</b>")
    assert all(len(one["text"]) == 300 for one in samples)


def test_what_a_model_wrote_that_is_no_label_has_a_column() -> None:
    predictions, data = classes(2, 6)
    predictions.labels, predictions.guesses, predictions.logits = (
        np.array([0, 0, 0, 1, 1, 1]),
        np.array([0, 1, -1] * 2),
        None,
    )
    found = answered(predictions, data, data.splits["test"], None)
    assert found is not None
    assert confusion_matrix(found).tolist() == [[1, 1, 1], [1, 1, 1]]
    sections = sections_of(predictions, data, "test", None)
    table, plot = titled(sections, "Scores by class").table, titled(sections, "Confusion matrix").plot
    assert table is not None
    assert isinstance(plot, Heatmap)
    assert list(table.rows[-1]) == ["none of the labels", None, None, None, 0, 2]
    assert (len(plot.rows), len(plot.columns)) == (2, 3)
    assert [section.title for section in sections] == ["Scores by class", "Confusion matrix"]


def test_words_are_counted_one_by_one_and_named() -> None:
    labels = [np.array([IGNORED, 0, IGNORED, 1]), np.array([1])]
    logits = [np.array([[0, 9], [5, 0], [9, 0], [2, 0]], np.float32), np.array([[0, 1]], np.float32)]
    examples = {"tokens": [["an", "apple"], ["Ada"]], "tags": [[0, 1], [1]], "row": [1, 2]}
    data = data_of("token_labels", examples, ["O", "B-PER"])
    rows = datasets.Dataset.from_dict({"word_starts": [[1, 3], [0]]})
    sections = sections_of(predictions_of(logits, labels), data, "test", rows)
    samples: Any = titled(sections, "Most confident mistakes").samples
    assert [(one["word"], one["label"], one["answer"][:1]) for one in samples] == [("apple", "B-PER", "O")]
    assert samples[0]["tokens"] == "an apple"
    plot = titled(sections, "Confusion matrix").plot
    assert isinstance(plot, Heatmap)
    assert plot.apart == ((0, 0),)  # O for O is left out of the scale of colours


def test_choices_are_counted_by_their_place() -> None:
    examples = {"context": ["a", "b"], "choices": [["x", "y"], ["x", "y"]], "label": [0, 1], "row": [1, 2]}
    data = data_of("multiple_choice", examples, [])
    predictions = predictions_of(np.array([[1, 0], [1, 0]], np.float32), np.array([0, 1]))
    sections = sections_of(predictions, data, "test", None)
    table = titled(sections, "Scores by class").table
    assert table is not None
    assert [row[0] for row in table.rows] == ["choice 1", "choice 2"]
    assert table.rows[1][1:4] == [None, 0.0, 0.0]


def test_numbers_show_their_largest_errors() -> None:
    examples = {"text": ["a", "b", "c"], "label": [1.0, 2.0, 3.0], "row": [1, 2, 3]}
    data = data_of("regression", examples, [])
    (section,) = sections_of(
        predictions_of(np.array([[1.0], [2.5], [0.0]]), np.array([1.0, 2.0, 3.0])), data, "test", None
    )
    samples: Any = section.samples
    assert [(one["text"], one["answer"], one["label"]) for one in samples] == [("c", "0", "3"), ("b", "2.5", "2")]


def test_text_that_is_learned_has_no_classes() -> None:
    data = data_of("plain_text", {"text": ["a"], "row": [1]}, [])
    assert sections_of(predictions_of(np.zeros((1, 0)), [np.array([1])]), data, "test", None) == []
