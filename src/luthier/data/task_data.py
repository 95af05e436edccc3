"""Checked examples of one task, as everything above the data sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from luthier.data.left_out import LeftOut
from luthier.data.rows.repeats import Repeats
from luthier.data.schemas import TaskSchema
from luthier.data.text_form import TextForm


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds, for plans and reports.

    Attributes:
        rows: number of examples; None for a stream.
        label_counts: label -> examples (token labels: words) that carry it.
        source: as the user wrote it.
        note: how the split was made, where that is not plain.
        left_out: rows that can't be used and were left out, where there are such.
        repeats: of its rows, those whose text stands in the training rows, too; None where that was not looked at.
    """

    rows: int | None
    label_counts: dict[str, int]
    source: str
    note: str
    left_out: LeftOut | None = None
    repeats: Repeats | None = None

    @property
    def told(self) -> str:
        """How the split was made, and what of it stands in the training rows, too."""
        return "; ".join(part for part in (self.note, self.repeats.told if self.repeats else "") if part)


@dataclass
class TaskData:
    """Checked examples.

    Attributes:
        schema: what the examples are.
        splits: `datasets.Dataset` by split, `ShuffledStream` for streamed training, in canonical columns: those of the
            schema, `label` (int64 id, or float32 score) where labelled, and `row`, the number in its file from 1.
        labels: label names in the order of their ids; empty where the task has none.
        metrics: metric names, the primary one first.
        fingerprint: sha256 over the sources and the settings.
        summary: per split.
        form: how the task is posed as text, or None.
        columns: canonical columns that a model reads, and what the training file, or the only one there is, calls
            them; those that the prompt shows, where the task is posed as text.
    """

    schema: TaskSchema
    splits: dict[str, Any]
    labels: list[str]
    metrics: tuple[str, ...]
    fingerprint: str
    summary: dict[str, SplitSummary] = field(default_factory=dict)
    form: TextForm | None = None
    columns: dict[str, str | list[str]] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, Any]:
        """By split, what is told of rows that can't be used and were left out; empty where there are none."""
        return {split: one.left_out.told() for split, one in self.summary.items() if one.left_out is not None}

    def marks_of_repeats(self, split: str) -> list[str]:
        """What is to be said beside scores on a split: that texts of it stand in the training rows, too."""
        summary = self.summary.get(split)
        return [summary.repeats.told] if summary is not None and summary.repeats and summary.repeats.count else []

    @property
    def kind(self) -> TaskSchema:
        """The task as a model meets it: posed as text where it has a form."""
        return self.schema if self.form is None else self.schema.posed_as(self.form)

    @property
    def encoded_schema(self) -> str:
        """Name of the task that has batches like those that a model is fed."""
        return self.kind.fed_as
