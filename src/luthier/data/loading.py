"""From the data block of a recipe to checked examples in canonical columns."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.data.assembly import (
    SplitSummary,
    canonical_splits,
    check_choices,
    dataset_of,
    drawn,
    label_names,
    metric_names,
    set_label_ids,
    summary_of,
    with_cut_validation,
)
from luthier.data.canonical import Columns
from luthier.data.fingerprint import check_files_unchanged, check_rows_unchanged, source_fingerprint
from luthier.data.origins import Origin, plan
from luthier.data.posing import pose
from luthier.data.reading import RawSplit, Rows, choose_schema, column_mapping, read_origin
from luthier.data.schemas import TaskSchema, TrainedOn
from luthier.data.settings import SPLITS, DataSettings
from luthier.data.table import listing
from luthier.data.text_form import TextForm
from luthier.errors import DataError
from luthier.one_version import one_version

_log = logging.getLogger(__name__)


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
    def encoded_schema(self) -> str:
        """The schema of the rows that a model is fed: that of the task, or of prompts with responses."""
        return str(self.schema.name) if self.form is None else "prompt_response"


def load_data(settings: DataSettings, *, splits: Sequence[str] = SPLITS, trained: TrainedOn | None = None) -> TaskData:
    """Read, check and draw the examples that the settings describe.

    Splits that the settings do not bring are left out. Labels get the same ids, and the same columns are read,
    whichever splits are asked for.

    Args:
        settings: the data block.
        splits: the splits that are wanted.
        trained: what the model that will meet the rows was trained on, where there is one.

    Raises:
        DataError: a source can't be found or read, rows can't be used (all are listed), or there are too few.
        WorkspaceError: a file changed since the run looked at it first, or while it was read.
    """
    with one_version():
        source_fingerprint(settings)
        return _load_data(settings, splits, trained)


def _load_data(settings: DataSettings, splits: Sequence[str], trained: TrainedOn | None) -> TaskData:
    origins = plan(settings)
    if settings.streaming:
        from luthier.data.streaming import load_stream

        return load_stream(settings, origins, splits, trained)
    raw = _read(origins, settings)
    user_files = any(one.origin.known is None for one in raw.values())
    first = raw.get("train") or next(iter(raw.values()))
    mappings = {split: column_mapping(one.origin, settings, user_files=user_files) for split, one in raw.items()}
    mapping = mappings[next(s for s in raw if raw[s] is first)]
    schema = choose_schema(first, mapping, settings, trained)
    read = columns_to_read(schema, mapping, list(first.table.columns), trained)
    for split, one in raw.items():
        refuse_unread(schema, mappings[split], read, one.origin.name)
    rows = canonical_splits(raw, schema, mappings, settings, read)
    by_group = first.origin.known is not None and first.origin.known.scored_by_group
    rows = with_cut_validation(rows, settings, by_group)
    labels = label_names(rows, raw, schema, settings)
    set_label_ids(rows, schema, labels)
    base = "train" if "train" in rows else next(iter(rows))
    origin = raw[base].origin
    form = pose(
        settings,
        origin.known,
        schema,
        labels,
        named_columns(read, mappings[base]),
        examples=rows[base].columns,
        where=rows[base].where,
    )
    rows = drawn(rows, labels, settings, by_group)
    wanted = {split: rows[split] for split in SPLITS if split in rows and split in splits}
    if not wanted:
        raise DataError(f"there is no split {' or '.join(splits)}", fix=f"the data has: {', '.join(rows)}")
    check_choices(wanted, schema)
    summary = {split: summary_of(one, schema, labels) for split, one in wanted.items()}
    _warn_of_unseen_labels(summary)
    fingerprint = _fingerprint(settings, wanted, raw)
    return TaskData(
        schema=schema,
        splits={split: dataset_of(one, schema, f"{fingerprint}-{split}") for split, one in wanted.items()},
        labels=labels,
        metrics=metric_names(first.origin, schema, labels),
        fingerprint=fingerprint,
        summary=summary,
        form=form,
        columns=columns_of_model(schema, read, form, mappings[base]),
    )


def columns_to_read(
    schema: TaskSchema, mapping: Columns, present: Sequence[str], trained: TrainedOn | None
) -> tuple[str, ...]:
    """The canonical columns that are read of every split: those that the table and the settings bring, or, of those
    that a task may lack, the ones that a model was trained on."""
    if trained is None or trained.task != schema.name:
        return schema.read(mapping, present)
    return schema.columns + tuple(name for name in schema.optional if name in trained.columns)


def refuse_unread(schema: TaskSchema, mapping: Columns, read: Sequence[str], where: str) -> None:
    """Raises:
    DataError: an optional column is named for rows that a model is to read without it.
    """
    for name in schema.optional:
        if name in mapping and name not in read:
            raise DataError(
                f"the rows have a {name}, which the model's training rows lack",
                where=where,
                fix=f"judge on rows without {name}, or train on rows with it",
            )


def named_columns(read: Sequence[str], mapping: Columns) -> dict[str, str | list[str]]:
    """Canonical column -> column of the file, for all that are read."""
    return dict(mapping) | {name: mapping.get(name, name) for name in read}


def columns_of_model(
    schema: TaskSchema, read: Sequence[str], form: TextForm | None, mapping: Columns
) -> dict[str, str | list[str]]:
    """The columns that a model reads, which are those of the prompt where the task is posed as text."""
    shown = read if form is None else (*form.columns, *(("candidate",) if form.ranks_candidates else ()))
    return {name: mapping.get(name, name) for name in shown}


def _read(origins: Mapping[str, Origin], settings: DataSettings) -> dict[str, RawSplit]:
    try:
        raw = {split: one for split, origin in origins.items() if (one := read_origin(origin, settings)) is not None}
    finally:
        # Also where reading failed: of a file that is just being written, the rows are not what is wrong.
        check_files_unchanged(origins.values())
    for one in raw.values():
        check_rows_unchanged(one.origin, one.table)
    return raw


def _warn_of_unseen_labels(summary: dict[str, SplitSummary]) -> None:
    train = summary.get("train")
    unseen = [label for label, count in train.label_counts.items() if not count] if train else []
    if train and unseen:
        _log.warning("%s: no training row has the label %s", train.source, listing(map(repr, unseen)))


def _fingerprint(settings: DataSettings, rows: dict[str, Rows], raw: dict[str, RawSplit]) -> str:
    total = hashlib.sha256(source_fingerprint(settings).encode())
    if any(one.origin.hub is not None for one in raw.values()):
        for split, one in rows.items():
            total.update(repr((split, sorted(one.columns.items()))).encode())
    return total.hexdigest()
