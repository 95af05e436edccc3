"""What a classifier's answers look like class by class: counts, confusions, scores, and its most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.schemas import IGNORED
from luthier.report.sections import Heatmap, Section, SectionTable, cut

if TYPE_CHECKING:
    from luthier.data.task_data import TaskData
    from luthier.tasks.running.predicting import Predictions

# Classes that a confusion matrix and the table of classes show; the others are taken together.
MOST_CLASSES = 20
MOST_MISTAKES = 20
LONGEST_TEXT = 300
NO_LABEL = "none of the labels"
# The label of words that stand in no entity.
OUTSIDE = "O"
_SHOWN_APART = ("label", "labels", "tags", "row", "group", "answers")


@dataclass(frozen=True)
class Answered:
    """Answers to N questions of one class each.

    Attributes:
        gold, guess: (N,) class ids; a guess of -1 is none of the labels.
        names: of the classes.
        confidence: (N,) the probability of the guess, or None where there are no probabilities.
        places: (N,) the row of the split that each question belongs to.
        words: (N,) the word that is asked about, or None where the row as a whole is.
    """

    gold: np.ndarray
    guess: np.ndarray
    names: Sequence[str]
    confidence: np.ndarray | None
    places: np.ndarray
    words: Sequence[str] | None = None


def answered(predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Answered | None:
    """The answers of a task of classes, choices or labelled words; None for any other."""
    kind = data.schema.label_kind
    if predictions.labels is None or "candidate" in getattr(examples, "column_names", ()):
        return None
    if kind == "classes":
        if "tokens" not in examples.column_names:
            return None  # several labels of something else than words
        return _of_words(predictions, data.labels, examples, rows)
    if kind not in ("class", "choice"):
        return None
    gold = np.asarray(predictions.labels, int)
    if predictions.guesses is not None:
        guess, confidence = np.asarray(predictions.guesses, int), None
    else:
        guess, probabilities = predictions.logits.argmax(axis=1), predictions.probabilities
        confidence = probabilities[np.arange(len(guess)), guess]
    names = (
        data.labels if kind == "class" else [f"choice {n + 1}" for n in range(int(max(gold.max(), guess.max())) + 1)]
    )
    return Answered(gold, guess, names, confidence, np.arange(len(gold)))


def _of_words(predictions: Predictions, labels: Sequence[str], examples: Any, rows: Any) -> Answered:
    gold, guess, confidence, places, words = [], [], [], [], []
    tokens, starts = _column(examples, "tokens"), _column(rows, "word_starts")
    for place, (logits, row_labels) in enumerate(zip(predictions.logits, predictions.labels, strict=True)):
        kept = np.flatnonzero(row_labels != IGNORED)
        scores = np.exp(logits[kept].astype(float) - logits[kept].max(axis=1, keepdims=True))
        shares = scores / scores.sum(axis=1, keepdims=True)
        gold.append(row_labels[kept])
        guess.append(shares.argmax(axis=1))
        confidence.append(shares.max(axis=1))
        places += [place] * len(kept)
        word_at = {start: word for word, start in enumerate(starts[place])} if starts and tokens else {}
        words += [str(tokens[place][word_at[at]]) if at in word_at else "" for at in kept.tolist()]
    joined = [np.concatenate(some) for some in (gold, guess, confidence)]
    return Answered(joined[0].astype(int), joined[1], labels, joined[2], np.array(places, int), words)


def _column(rows: Any, name: str) -> list[Any]:
    """A column of rows; empty where a task has no such column."""
    return list(rows[name]) if rows is not None and name in rows.column_names else []


def sections_of(predictions: Predictions, data: TaskData, split: str, rows: Any) -> list[Section]:
    """Sections of the page: the classes, their confusions, and the most confident mistakes; of numbers the largest
    errors. None where rows have no answer of a known kind: text that is learned, spans, candidates."""
    examples = data.splits[split]
    if data.schema.label_kind == "score" and predictions.labels is not None:
        return largest_errors(predictions, examples)
    found = answered(predictions, data, examples, rows)
    if found is None or not len(found.gold):
        return []
    sections = [by_class(found)]
    if len(found.names) > 1:
        sections.append(confusions(found))
    if mistakes := most_confident_mistakes(found, examples):
        sections.append(mistakes)
    return sections


def confusion_matrix(found: Answered) -> np.ndarray:
    """(C, C + 1) counts: row the label, column the answer, the last one answers that are none of the labels."""
    classes = len(found.names)
    cells = found.gold * (classes + 1) + np.where(found.guess < 0, classes, found.guess)
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def by_class(found: Answered) -> Section:
    """Precision, recall and F1 of every class, and how often it is the label and the answer."""
    counts = confusion_matrix(found)
    right, labelled, said = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    order = np.argsort(-labelled, kind="stable")
    every: list[list[Any]] = [
        [
            found.names[n],
            _share(right[n], said[n]),
            _share(right[n], labelled[n]),
            _share(2 * right[n], labelled[n] + said[n]),
            int(labelled[n]),
            int(said[n]),
        ]
        for n in order
    ]
    rows, rest = every[:MOST_CLASSES], every[MOST_CLASSES:]
    if rest:
        sums = [sum(row[4] for row in rest), sum(row[5] for row in rest)]
        rows.append([f"{len(rest)} other classes", None, None, None, *sums])
    if counts[:, -1].any():
        rows.append([NO_LABEL, None, None, None, 0, int(said[-1])])
    rows += sorted(rest, key=lambda row: (row[3] is None, row[3]))
    text = "Support is how many carry the label, predicted how often the model answers it. "
    text += "No precision where a class is never predicted, no recall where none carries it."
    if rest:
        text += f" The {MOST_CLASSES} most frequent of {len(found.names)} classes come first; below them the others "
        text += "can be opened, those of the lowest F1 first."
    columns = ["class", "precision", "recall", "F1", "support", "predicted"]
    return Section("Scores by class", text=text, table=SectionTable(columns, rows, folded=len(rest)))


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def confusions(found: Answered) -> Section:
    """The confusion matrix as a figure; of many classes the most frequent ones, the others taken together."""
    counts = confusion_matrix(found)
    names = [*found.names, NO_LABEL]
    order = np.argsort(-(counts.sum(axis=1) + counts[:, :-1].sum(axis=0)), kind="stable")
    kept, rest = sorted(order[:MOST_CLASSES].tolist()), order[MOST_CLASSES:].tolist()
    lines = [counts[n] for n in kept] + ([counts[rest].sum(axis=0)] if rest else [])
    columns = [[line[n] for n in kept] + ([line[rest].sum()] if rest else []) + [line[-1]] for line in lines]
    titles = [names[n] for n in kept] + ([f"{len(rest)} others"] if rest else [])
    wrote_none = bool(counts[:, -1].any())
    values = [[float(n) for n in (line if wrote_none else line[:-1])] for line in columns]
    text = "Rows are labels, columns are answers."
    if rest:
        text += f" The {MOST_CLASSES} most frequent of {len(found.names)} classes are shown; the other {len(rest)} are "
        text += "one row and one column, whose cell in common also holds confusions among them and has no colour."
    outside = [place for place, n in enumerate(kept) if found.words is not None and names[n] == OUTSIDE]
    if outside:
        text += (
            f" {OUTSIDE} where {OUTSIDE} is right, as most words are, has no colour, so that the others show theirs."
        )
    # Sums of many cells, beside which the others would all look dark.
    apart = tuple((place, place) for place in [*outside, *([len(kept)] if rest else [])])
    plot = Heatmap(titles, [*titles, NO_LABEL] if wrote_none else titles, values, apart)
    return Section("Confusion matrix", text=text, plot=plot)


def most_confident_mistakes(found: Answered, examples: Any) -> Section | None:
    """The wrong answers of highest probability, with what was asked; None where there are none, or no
    probabilities."""
    if found.confidence is None:
        return None
    wrong = np.flatnonzero(found.gold != found.guess)
    worst = wrong[np.argsort(-found.confidence[wrong], kind="stable")][:MOST_MISTAKES]
    if not len(worst):
        return None
    samples = [_mistake(found, int(at), examples) for at in worst]
    text = f"{len(wrong)} of {len(found.gold)} answers are wrong; these {len(worst)} with the highest probability."
    return Section("Most confident mistakes", text=text, samples=samples)


def _mistake(found: Answered, at: int, examples: Any) -> dict[str, str]:
    assert found.confidence is not None
    told = {"answer": f"{_name(found, found.guess[at])} ({found.confidence[at]:.3f})"}
    told["label"] = _name(found, found.gold[at])
    if found.words is not None:
        told["word"] = cut(found.words[at], LONGEST_TEXT)
    return told | _row(examples[int(found.places[at])])


def _row(row: dict[str, Any]) -> dict[str, str]:
    """The texts of a row, and its number."""
    texts = {k: cut(_text(v), LONGEST_TEXT) for k, v in row.items() if k not in _SHOWN_APART and v is not None}
    return texts | ({"row": str(row["row"])} if "row" in row else {})


def largest_errors(predictions: Predictions, examples: Any) -> list[Section]:
    """The rows whose number is predicted worst."""
    gold, guess = np.asarray(predictions.labels, float).reshape(-1), np.asarray(predictions.logits, float)[:, 0]
    worst = np.argsort(-np.abs(guess - gold), kind="stable")[:MOST_MISTAKES]
    worst = worst[guess[worst] != gold[worst]]
    if not len(worst):
        return []
    samples = [_row(examples[int(at)]) | {"answer": f"{guess[at]:.4g}", "label": f"{gold[at]:.4g}"} for at in worst]
    text = f"The {len(worst)} of {len(gold)} rows whose predicted number is furthest from the label."
    return [Section("Largest errors", text=text, samples=samples)]


def _name(found: Answered, one: int) -> str:
    return NO_LABEL if one < 0 else str(found.names[one])


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
