"""Training examples that are read while training: shuffled in a buffer, checked row by row, resumed exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
from torch.utils.data import IterableDataset, get_worker_info

from luthier.data.assembly import SplitSummary, metric_names
from luthier.data.batches.encoders import Encoder
from luthier.data.reading.forms import Form, UnusableRowError
from luthier.data.reading.readers import Row, iterate_rows
from luthier.data.rows.canonical import Columns, canonical_row, check_columns, note, wanted_columns
from luthier.data.rows.columns import columns_of_model, columns_to_read, named_columns
from luthier.data.rows.labels import LabelIds, check_labels, declared_labels, relabelled
from luthier.data.rows.posing import pose
from luthier.data.schemas import SCHEMAS, TaskSchema, TrainedOn
from luthier.data.settings import DataSettings
from luthier.data.sources.fingerprint import check_files_unchanged, source_fingerprint
from luthier.data.sources.hub import class_names, load_hub_split, named_record
from luthier.data.sources.origins import Origin, plan
from luthier.data.splits import RawSplit, choose_schema, column_mapping, form_of_origin, options_of
from luthier.data.table import Problems, Table, place
from luthier.data.task_data import TaskData
from luthier.data.whole import load_whole
from luthier.errors import DataError

_STREAMED_FORMATS = ("csv", "tsv", "jsonl", "txt")

Records = Callable[[], Iterator[Row]]


@dataclass
class CheckedRows:
    """Canonical rows of a stream, from its beginning, each time it is called.

    Attributes:
        records: gives the rows as they were read.
        wanted: canonical column -> column of the source.
        schema: the task.
        labels: all labels; empty where the task has none.
        known_map, user_map: how labels of the source are renamed.
        where: name of the source.
    """

    records: Records
    wanted: Columns
    schema: TaskSchema
    labels: list[str]
    known_map: Mapping[str, str]
    user_map: Mapping[str, str]
    where: str

    def __call__(self) -> Iterator[dict[str, Any]]:
        """Raises:
        DataError: at the first row that can't be used.
        """
        ids = LabelIds(self.labels)
        for read in self.records():
            problems, where = Problems(self.where), place(read.number, read.line)
            if read.number == 1:
                check_columns(self.wanted, list(read.cells), self.where)
            row, found = canonical_row(
                self.schema, {name: read.cells.get(name) for name in self._columns()}, self.wanted
            )
            note(problems, where, found)
            column = self.schema.label_column
            if not problems.count and column in row and self.labels:
                label = relabelled(row[column], self.known_map, self.user_map)
                row[column] = ids.of(label, where, str(self.wanted[column]), problems)
            problems.raise_if_any("correct or remove this row")
            yield {"row": read.number, **row}

    def _columns(self) -> Iterator[str]:
        for source in self.wanted.values():
            yield from [source] if isinstance(source, str) else source


class ShuffledStream(IterableDataset[dict[str, Any]]):
    """Rows of a source in the order of a shuffle buffer, encoded on the way if asked.

    The order depends on the seed, the buffer and the epoch. Position is the number of rows given out: going on reads
    the source again up to there, which costs time in long streams, and gives the very rows that would have come.

    Args:
        rows: gives the rows from the beginning.
        seed: of the shuffle.
        buffer: rows that are shuffled together.
        encode: turns an iterator of rows into one of encoded rows; None leaves them as they are.
        keeps_rows: whether it gives one encoded row for each row.
    """

    def __init__(
        self,
        rows: Callable[[], Iterator[dict[str, Any]]],
        *,
        seed: int,
        buffer: int,
        encode: Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]] | None = None,
        keeps_rows: bool = True,
        schema: TaskSchema | None = None,
    ) -> None:
        self.rows = rows
        self.seed, self.buffer, self.schema = seed, buffer, schema
        self.epoch = 0
        self._encode, self._keeps_rows = encode, keeps_rows
        self._start = 0
        self._done = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, and start at its beginning."""
        if epoch != self.epoch:
            self.epoch, self._start, self._done = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Seed, epoch, and how many rows of it were given out."""
        return {"seed": self.seed, "epoch": self.epoch, "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, with the next pass over the stream."""
        self.seed, self.epoch, self._start = int(state["seed"]), int(state["epoch"]), int(state["done"])
        self._done = self._start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is not None and worker.id != 0:
            return
        self._done, self._start = self._start, 0
        for row in self._from(self._done):
            self._done += 1
            yield row
        self._done = 0

    def encoded(self, options: Encoder) -> ShuffledStream:
        """The same stream, encoded for a model."""
        schema = self.schema
        if schema is None:
            raise ValueError("a stream of no task can't be encoded")
        seen = schema if options.form is None else schema.posed_as(options.form)

        def encode(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            return seen.encode_stream(rows, options)

        return ShuffledStream(
            self.rows, seed=self.seed, buffer=self.buffer, encode=encode, keeps_rows=not seen.packed, schema=schema
        )

    def _from(self, done: int) -> Iterator[dict[str, Any]]:
        stream = datasets.IterableDataset.from_generator(self.rows)
        stream = stream.shuffle(seed=self.seed, buffer_size=self.buffer)
        if done and self._keeps_rows:
            stream = stream.skip(done)
        stream.set_epoch(self.epoch)
        if self._encode is None:
            return iter(stream)
        return itertools.islice(self._encode(iter(stream)), 0 if self._keeps_rows else done, None)


class EndlessStream(IterableDataset[dict[str, Any]]):
    """A stream that starts again, in another order, whenever it ends."""

    def __init__(self, stream: ShuffledStream) -> None:
        self.stream = stream

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises:
        DataError: a whole pass gives no row.
        """
        for epoch in itertools.count(self.stream.epoch):
            self.stream.set_epoch(epoch)
            empty = True
            for row in self.stream:
                empty = False
                yield row
            if empty:
                raise DataError("the stream holds no rows", fix="name a source with training rows")


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
    records, first, native_labels = _records(origin, settings)
    form = form_of_origin(origin, settings, first)
    if form is not None:
        records = _in_form(records, form, origin.name)
        first = next(records()).cells
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
        records,
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
        found.summary["train"] = SplitSummary(None, {}, origin.name, "streamed")
    others = {split: one.name for split, one in origins.items() if split != "train" and split in splits}
    if others:
        fixed: dict[str, Any] = {"streaming": False, "source": None, "train": None, "task": schema.name}
        rest = settings.model_copy(update=fixed | {"labels": labels or None} | others)
        whole = load_whole(rest, plan(rest), list(others), streamed)
        found.splits |= whole.splits
        found.summary |= whole.summary
    return found


def _records(origin: Origin, settings: DataSettings) -> tuple[Records, dict[str, Any], list[str] | None]:
    if origin.hub is not None:
        return _hub_records(origin)
    files = origin.files
    options = options_of(settings)
    layout = origin.known.splits[origin.split] if origin.known and origin.split else None
    if origin.cut or getattr(layout, "layout", None) or (origin.known and origin.known.derive) or len(files) != 1:
        raise _whole_only(origin)
    if layout is not None and not isinstance(layout, str):
        options = replace(options, format=layout.format, column_names=layout.columns)
    file = files[0]
    kind = options.format or file.format
    if kind not in _STREAMED_FORMATS:
        raise DataError(f"{kind} files can't be streamed", where=origin.name, fix="use csv, tsv, jsonl or txt")

    def records() -> Iterator[Row]:
        problems = Problems(file.name)
        for row in iterate_rows(file, options, problems):
            problems.raise_if_any()
            yield row
        problems.raise_if_any()
        check_files_unchanged([origin])

    first = next(records(), None)
    if first is None:
        raise DataError("the file has no rows", where=origin.name, fix="is it the right file?")
    return records, first.cells, None


def _in_form(records: Records, form: Form, name: str) -> Records:
    def shaped() -> Iterator[Row]:
        for row in records():
            problems = Problems(name)
            try:
                for cells in form.shape(row.cells):
                    yield Row(row.number, row.line, cells)
            except UnusableRowError as error:
                problems.add(f"{place(row.number, row.line)}, column {error.column!r}", str(error))
            problems.raise_if_any("correct or remove this row")

    return shaped


def _hub_records(origin: Origin) -> tuple[Records, dict[str, Any], list[str] | None]:
    split = load_hub_split(origin, streaming=True)
    if split is None or (origin.known and origin.known.derive):
        raise _whole_only(origin)
    names = class_names(split.features)

    def records() -> Iterator[Row]:
        for number, record in enumerate(split, start=1):
            yield Row(number, number, named_record(record, names))

    first = next(records(), None)
    if first is None:
        raise DataError("the split has no rows", where=origin.name)
    return records, first.cells, next(iter(names.values()), None)


def _whole_only(origin: Origin) -> DataError:
    return DataError(
        "this set has to be read whole, so it can't be streamed", where=origin.name, fix="leave `streaming` out"
    )
