"""Data that are held whole: every row read, checked and put into canonical columns."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence

from luthier.data.assembly import (
    canonical_splits,
    check_choices,
    dataset_of,
    drawn,
    label_names,
    metric_names,
    repeats,
    set_label_ids,
    summary_of,
    with_cut_validation,
)
from luthier.data.left_out import warn_of
from luthier.data.rows.canonical import Columns
from luthier.data.rows.columns import columns_of_model, columns_to_read, named_columns, refuse_unread
from luthier.data.rows.posing import pose
from luthier.data.schemas import TaskSchema, TrainedOn
from luthier.data.settings import SPLITS, DataSettings
from luthier.data.sources.fingerprint import check_files_unchanged, check_rows_unchanged, source_fingerprint
from luthier.data.sources.origins import Origin
from luthier.data.splits import RawSplit, Rows, choose_schema, column_mapping, read_origin, tidied
from luthier.data.table import listing
from luthier.data.task_data import SplitSummary, TaskData
from luthier.errors import DataError

_log = logging.getLogger(__name__)


def load_whole(
    settings: DataSettings, origins: Mapping[str, Origin], splits: Sequence[str], trained: TrainedOn | None
) -> TaskData:
    """`luthier.data.loading.load_data` for data that are held whole."""
    raw = _read(origins, settings)
    user_files = any(one.origin.known is None for one in raw.values())
    first = raw.get("train") or next(iter(raw.values()))
    mappings: dict[str, Columns] = {
        split: dict(column_mapping(one.origin, settings, user_files=user_files)) | dict(one.formed)
        for split, one in raw.items()
    }
    mapping = mappings[next(s for s in raw if raw[s] is first)]
    schema = choose_schema(first, mapping, settings, trained)
    raw = tidied(schema, raw)
    first = raw.get("train") or next(iter(raw.values()))
    read = columns_to_read(schema, mapping, list(first.table.columns), trained)
    for split, one in raw.items():
        refuse_unread(schema, mappings[split], read, one.origin.name)
    rows = canonical_splits(raw, schema, mappings, settings, read)
    _warn_of_unused_names(rows, schema, settings)
    by_group = first.origin.known is not None and first.origin.known.scored_by_group
    rows = with_cut_validation(rows, schema, settings, by_group)
    labels = label_names(rows, raw, schema, settings)
    set_label_ids(rows, schema, labels)
    if settings.invalid_rows == "drop":  # else the rows that are not wanted are not looked at
        check_choices(rows, schema)
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
    rows = drawn(rows, schema, labels, settings, by_group)
    wanted = {split: rows[split] for split in SPLITS if split in rows and split in splits}
    if not wanted:
        raise DataError(f"there is no split {' or '.join(splits)}", fix=f"the data has: {', '.join(rows)}")
    check_choices(wanted, schema)
    repeated = repeats(rows, schema)
    summary = {split: summary_of(one, schema, labels, repeated.get(split)) for split, one in wanted.items()}
    _warn_of_unseen_labels(summary)
    for described in summary.values():
        warn_of(described.left_out)
        if described.repeats is not None and described.repeats.warned:
            _log.warning("%s: %s", described.source, described.repeats.told)
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


def _read(origins: Mapping[str, Origin], settings: DataSettings) -> dict[str, RawSplit]:
    try:
        raw = {split: one for split, origin in origins.items() if (one := read_origin(origin, settings)) is not None}
    finally:
        # Also where reading failed: of a file that is just being written, the rows are not what is wrong.
        check_files_unchanged(origins.values())
    for one in raw.values():
        check_rows_unchanged(one.origin, one.table)
    return raw


def _warn_of_unused_names(rows: Mapping[str, Rows], schema: TaskSchema, settings: DataSettings) -> None:
    found = {name for one in rows.values() for name in one.renamed}
    unused = [name for name in settings.label_map or {} if name not in found]
    # Of choices all letters are named, whichever are right.
    if unused and "train" in rows and schema.has_classes and settings.labelled:
        _log.warning(
            "%s: `label_map` renames %s, which no row has: labels are written as in the file",
            ", ".join(dict.fromkeys(one.where for one in rows.values())),
            listing(map(repr, unused)),
        )


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
