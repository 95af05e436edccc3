"""From the data block of a recipe to training examples that are read while training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from luthier.data.assembly import SplitSummary, metric_names
from luthier.data.batches.stream import ShuffledStream
from luthier.data.rows.canonical import check_columns, wanted_columns
from luthier.data.rows.columns import columns_of_model, columns_to_read, named_columns
from luthier.data.rows.labels import check_labels, declared_labels
from luthier.data.rows.posing import pose
from luthier.data.schemas import SCHEMAS, TrainedOn
from luthier.data.settings import DataSettings
from luthier.data.sources.fingerprint import source_fingerprint
from luthier.data.sources.hub import load_hub_split, told_of_hub
from luthier.data.sources.origins import Origin, plan
from luthier.data.splits import RawSplit, choose_schema, column_mapping, form_of_origin, options_of
from luthier.data.streamed_rows import CheckedRows, FileRows, HubRows, RowSource, ShapedRows
from luthier.data.table import Table
from luthier.data.task_data import TaskData
from luthier.data.whole import load_whole
from luthier.errors import DataError

_STREAMED_FORMATS = ("csv", "tsv", "jsonl", "txt")


def load_stream(
    settings: DataSettings, origins: Mapping[str, Origin], splits: Sequence[str], trained: TrainedOn | None = None
) -> TaskData:
    """The training split as a stream, the others loaded whole.

    Raises:
        DataError: the training split can't be streamed, or its labels are not known without reading it.
    """
    if "train" not in origins:
        raise DataError("there are no training examples to stream", fix="name them as `train`")
    origin = origins["train"]
    source, native_labels = _source(origin, settings)
    form = form_of_origin(origin, settings, source.first)
    if form is not None:
        source = ShapedRows(source, form, origin.name)
    first = source.first
    raw = RawSplit(origin, Table.of_records(origin.name, [first], None), [0])
    mapping = dict(column_mapping(origin, settings, user_files=any(one.known is None for one in origins.values())))
    mapping |= form.columns if form is not None else {}
    schema = choose_schema(raw, mapping, settings, trained)
    read = columns_to_read(schema, mapping, list(first), trained)
    if not schema.streamed:
        raise DataError(f"task {schema.name} can't be streamed", where=origin.name, fix="leave `streaming` out")
    known = origin.known if settings.task in (None, origin.known.task if origin.known else None) else None
    labels: list[str] = []
    if schema.has_classes and settings.labelled:
        declared = declared_labels(settings, known, native_labels)
        if declared is None:
            raise DataError(
                "a stream is not read beforehand, so its labels are not known",
                where=origin.name,
                fix="name them with `labels: [...]`",
            )
        check_labels(labels := declared, origin.name)
    rows = CheckedRows(
        source,
        wanted_columns(schema, mapping, settings.labelled, read),
        schema,
        labels,
        known.label_map if known and settings.label is None else {},
        settings.label_map or {},
        origin.name,
    )
    check_columns(rows.wanted, list(first), origin.name)
    stream = ShuffledStream(rows, seed=settings.subset_seed, buffer=settings.buffer, schema=schema)
    found = _with_whole_splits(stream, settings, origins, splits, TrainedOn(str(schema.name), read), labels)
    named = named_columns(read, mapping)
    found.form = pose(settings, known, schema, labels, named, examples={}, where=origin.name)
    found.columns = columns_of_model(schema, read, found.form, mapping)
    return found


def _with_whole_splits(
    stream: ShuffledStream,
    settings: DataSettings,
    origins: Mapping[str, Origin],
    splits: Sequence[str],
    streamed: TrainedOn,
    labels: list[str],
) -> TaskData:
    origin, schema = origins["train"], SCHEMAS[streamed.task]
    found = TaskData(schema, {}, labels, metric_names(origin, schema, labels), source_fingerprint(settings))
    if "train" in splits:
        found.splits["train"] = stream
        found.summary["train"] = SplitSummary(
            None, {}, origin.name, "; ".join(filter(None, ("streamed", told_of_hub(origin))))
        )
    others = {split: one.name for split, one in origins.items() if split != "train" and split in splits}
    if others:
        fixed: dict[str, Any] = {"streaming": False, "source": None, "train": None, "task": schema.name}
        rest = settings.model_copy(update=fixed | {"labels": labels or None} | others)
        whole = load_whole(rest, plan(rest), list(others), streamed)
        found.splits |= whole.splits
        found.summary |= whole.summary
    return found


def _source(origin: Origin, settings: DataSettings) -> tuple[RowSource, list[str] | None]:
    """The rows, and the class names that come with them."""
    if origin.hub is not None:
        split = load_hub_split(origin, streaming=True)
        if split is None or (origin.known and origin.known.derive):
            raise _whole_only(origin)
        rows = HubRows(split, origin.name)
        return rows, next(iter(rows.names.values()), None)
    options = options_of(settings)
    layout = origin.known.splits[origin.split] if origin.known and origin.split else None
    several = len(origin.files) != 1
    if origin.cut or getattr(layout, "layout", None) or (origin.known and origin.known.derive) or several:
        raise _whole_only(origin)
    if layout is not None and not isinstance(layout, str):
        options = replace(options, format=layout.format, column_names=layout.columns)
    kind = options.format or origin.files[0].format
    if kind not in _STREAMED_FORMATS:
        raise DataError(f"{kind} files can't be streamed", where=origin.name, fix="use csv, tsv, jsonl or txt")
    return FileRows(origin, options), None


def _whole_only(origin: Origin) -> DataError:
    return DataError(
        "this set has to be read whole, so it can't be streamed", where=origin.name, fix="leave `streaming` out"
    )
