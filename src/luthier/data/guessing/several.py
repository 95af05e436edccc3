"""From the columns of a sample to several labels a text: lists of them, or a column of 0 and 1 for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.data.guessing.columns import (
    LABEL_NAMES,
    Column,
    able_labels,
    label_column,
    named_like,
    says_label,
    text_columns,
    text_pair_of,
    told_labels,
)
from luthier.data.guessing.task_guess import TaskGuess, renamed
from luthier.data.rows.canonical import BadCellError, as_flag, is_multi_hot, list_cell
from luthier.data.table import Table

# Columns of 0 and 1 that are classes of a text and not, like one or two, something else about it.
_FEWEST_FLAGS = 3
_LISTED = (*LABEL_NAMES, *(f"{name}s" for name in LABEL_NAMES), "categories", "classes", "topics", "genres")


def several_labels(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    """Lists of labels: by name, or the only lists of few values beside text where no column holds one label."""
    lists = {name: [_labels_in(value) for value in column.values] for name, column in columns.items()}
    listed = {
        name: [str(one) for labels in found if labels is not None for one in labels]
        for name, found in lists.items()
        if found and None not in found
    }
    label = named_like(listed, _LISTED)
    columns = {name: column for name, column in columns.items() if name not in listed}
    if label is None and label_column(columns) is None:
        label = next((name for name, found in listed.items() if 2 * len(set(found)) <= len(found)), None)
    texts = text_columns(columns, label)
    if label is None or not listed[label] or not texts:
        return None
    names, held = texts_of(columns, texts)
    found = TaskGuess("multi_label", renamed(names | {"label": label}), shown=tuple(names.values()))
    found.said = [
        f"{held} the text, {label!r} any number of labels",
        f"labels seen: {told_labels(listed[label])}",
    ]
    if others := [name for name in listed if name != label]:
        found.doubts.append(f"{', '.join(map(repr, others))} could be the labels, too: choose with `label: NAME`")
    return found


def parted_by(mark: str, labels: Sequence[str]) -> bool:
    """Whether labels seem to be several each, with a mark between them: fewer parts than wholes, and known alone."""
    parts = {part.strip() for label in labels for part in label.split(mark)}
    several = {label for label in labels if mark in label}
    return bool(several) and len(parts) < len(set(labels)) + len(several) and any(part in labels for part in parts)


def columns_of_classes(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    """A column of 0 and 1 for each of several classes, where no other column is named as one of labels is."""
    flags = [name for name, column in columns.items() if column.says_yes_or_no]
    beside = {name: column for name, column in columns.items() if name not in flags}
    texts = text_columns(beside, None)
    others = [name for name in able_labels(beside) if texts[:1] != [name]]
    if len(flags) < _FEWEST_FLAGS or not texts or any(map(says_label, others)):
        return None
    names, held = texts_of(columns, texts)
    found = TaskGuess("multi_label", renamed(names) | {"label": flags}, shown=tuple(names.values()))
    some = [name for name in flags for value in columns[name].values if as_flag(value)]
    found.said = [
        f"{held} the text, {', '.join(map(repr, flags))} whether it is of each class",
        f"labels seen: {told_labels(some)}",
    ]
    others = [name for name in others if name not in names.values()]
    which = f"one of them, or {' or '.join(map(repr, others))}," if others else "one of them alone"
    found.doubts = [f"if {which} is to be learned, set `task: {one_label_task(names)}` and `label: NAME`"]
    return found


def texts_of(
    columns: Mapping[str, Column], texts: Sequence[str], *, scored: bool = False
) -> tuple[dict[str, str], str]:
    """The keys of the texts that are read, a pair where two belong together, and how to say what they hold."""
    pair = text_pair_of(columns, texts, scored=scored)
    names = {"text": pair[0], "text_pair": pair[1]} if pair else {"text": texts[0]}
    return names, f"{' and '.join(map(repr, names.values()))} {'hold' if pair else 'holds'}"


def one_label_task(names: Mapping[str, str]) -> str:
    """The task with one label a row that reads these texts."""
    return "pair" if "text_pair" in names else "single_sentence"


def _labels_in(value: Any) -> list[Any] | None:
    """The labels of a cell that is a list, or the JSON text of one; None for any other."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = list_cell(value)
        except BadCellError:
            return None
    labels = isinstance(value, list) and all(isinstance(one, str | int) and not isinstance(one, bool) for one in value)
    return value if labels and not is_multi_hot(value) else None
