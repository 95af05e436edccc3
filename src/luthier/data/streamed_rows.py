"""Rows of a source one after another, from its beginning or from a place that was noted before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from luthier.data.reading.forms import Form, UnusableRowError
from luthier.data.reading.places import Place, Reading
from luthier.data.reading.readers import ReadOptions, Row, iterate_rows
from luthier.data.rows.canonical import UNCHECKED, Columns, canonical_row, check_columns, note
from luthier.data.rows.labels import LabelIds, relabelled
from luthier.data.schemas import TaskSchema
from luthier.data.sources.fingerprint import check_files_unchanged
from luthier.data.sources.hub import class_names, named_record
from luthier.data.sources.origins import Origin
from luthier.data.table import Problems, place
from luthier.errors import DataError


class RowSource(Protocol):
    """Rows of a source, as they are read.

    Attributes:
        first: the cells of the first row.
        plain: whether cells hold nothing but what JSON can.
    """

    first: dict[str, Any]

    @property
    def plain(self) -> bool: ...

    def read(self, place: Mapping[str, Any] | None = None) -> Reading[Row]:
        """The rows from a place on, from the beginning by default."""
        ...


class FileRows:
    """Rows of a csv, tsv, jsonl or txt file.

    A place is a number of bytes, so that going on reads nothing again; in an encoding in which a line break is more
    than one byte, such as UTF-16, the lines before it are read again, and in a compressed file its bytes.

    Args:
        origin: of one file.
        options: how it is read.

    Raises:
        DataError: the file has no rows.
    """

    plain = True

    def __init__(self, origin: Origin, options: ReadOptions) -> None:
        self._origin, self._options = origin, options
        first = next(self._rows(Place(), options), None)
        if first is None:
            raise DataError("the file has no rows", where=origin.name, fix="is it the right file?")
        self.first = first.cells

    def read(self, place: Mapping[str, Any] | None = None) -> Reading[Row]:
        """The rows from a place on. Reading them raises a DataError at the first one that can't be read, and, at the
        end, a WorkspaceError where the file is not what the run first saw."""
        at, options = Place(**place or {}), self._options
        if at.row:
            options = replace(options, column_names=tuple(self.first))
        return Reading(self._rows(at, options, whole=True), lambda: asdict(at))

    def _rows(self, at: Place, options: ReadOptions, whole: bool = False) -> Iterator[Row]:
        file = self._origin.files[0]
        problems = Problems(file.name)
        for row in iterate_rows(file, options, problems, at):
            problems.raise_if_any()
            yield row
        problems.raise_if_any()
        if whole:
            check_files_unchanged([self._origin])


class HubRows:
    """Rows of a streamed split of a set on the Hub.

    A place is the state that `datasets` gives: going on opens the file that the place is in, whose rows before it are
    passed over.

    Args:
        split: a `datasets.IterableDataset`.
        name: of the set.

    Raises:
        DataError: the split has no rows.
    """

    plain = False

    def __init__(self, split: Any, name: str) -> None:
        self._split = split
        self.names = class_names(split.features)
        first = next(iter(split), None)
        if first is None:
            raise DataError("the split has no rows", where=name)
        self.first = named_record(first, self.names)

    def read(self, place: Mapping[str, Any] | None = None) -> Reading[Row]:
        """The rows from a place on; of two readings at a time only the newer one knows its place."""
        at = dict(place or {"row": 0, "state": None})
        return Reading(self._rows(at), lambda: dict(at))

    def _rows(self, at: dict[str, Any]) -> Iterator[Row]:
        split = self._split
        split.load_state_dict(at["state"])
        # One at a time, not `iter(split)`: in a worker of a data loader that would leave out the shards of the others.
        for batch in split.iter(batch_size=1):
            at |= {"row": at["row"] + 1, "state": split.state_dict()}
            record = {name: values[0] for name, values in batch.items()}
            yield Row(at["row"], at["row"], named_record(record, self.names))


@dataclass
class ShapedRows:
    """Rows that the records of a source become in the form that they have; one record may become several, or none.

    A place is one of the source, and the rows that are left of the record before it.

    Raises:
        DataError: the first records give no row.
    """

    source: RowSource
    form: Form
    name: str

    def __post_init__(self) -> None:
        first = next(iter(self.read()), None)
        if first is None:
            raise DataError("no record has a row of its form", where=self.name, fix="is it the right file?")
        self.first = first.cells

    @property
    def plain(self) -> bool:
        return self.source.plain

    def read(self, place: Mapping[str, Any] | None = None) -> Reading[Row]:
        """The rows from a place on. Reading them raises a DataError at the first record that the form does not fit."""
        records = self.source.read(place["source"] if place else None)
        left = [Row(*row) for row in place["left"]] if place else []
        return Reading(
            self._rows(records, left),
            lambda: {"source": records.place(), "left": [(row.number, row.line, row.cells) for row in left]},
        )

    def _rows(self, records: Iterator[Row], left: list[Row]) -> Iterator[Row]:
        while True:
            while left:
                yield left.pop(0)
            record = next(records, None)
            if record is None:
                return
            left += self._shaped(record)

    def _shaped(self, record: Row) -> list[Row]:
        problems = Problems(self.name)
        try:
            return [Row(record.number, record.line, cells) for cells in self.form.shape(record.cells)]
        except UnusableRowError as error:
            problems.add(f"{place(record.number, record.line)}, column {error.column!r}", str(error))
            problems.raise_if_any("correct or remove this row")
            return []


@dataclass
class CheckedRows:
    """Canonical rows of a stream.

    Attributes:
        source: gives the rows as they were read.
        wanted: canonical column -> column of the source.
        schema: the task.
        labels: all labels; empty where the task has none.
        known_map, user_map: how labels of the source are renamed.
        where: name of the source.
    """

    source: RowSource
    wanted: Columns
    schema: TaskSchema
    labels: list[str]
    known_map: Mapping[str, str]
    user_map: Mapping[str, str]
    where: str

    def read(self, place: Mapping[str, Any] | None = None) -> Reading[dict[str, Any]]:
        """The rows from a place on, from the beginning by default. Reading them raises a DataError at the first one
        that can't be used."""
        ids, rows = LabelIds(self.labels), self.source.read(place)
        return Reading((self._checked(row, ids) for row in rows), rows.place)

    @property
    def checked_later(self) -> bool:
        """Whether rows can be read first and checked, by `check`, when they are used."""
        return self.source.plain

    def read_unchecked(self, place: Mapping[str, Any] | None = None) -> Reading[dict[str, Any]]:
        """The rows from a place on as `check` takes them, of JSON's types."""
        rows = self.source.read(place)
        names = list(self._columns())

        def kept(row: Row) -> dict[str, Any]:
            return {"row": row.number, UNCHECKED: row.line, "cells": {n: row.cells[n] for n in names if n in row.cells}}

        return Reading(map(kept, rows), rows.place)

    def check(self, row: dict[str, Any]) -> dict[str, Any]:
        """The canonical row that a row of `read_unchecked` is.

        Raises:
            DataError: it can't be used.
        """
        return self._checked(Row(row["row"], row[UNCHECKED], row["cells"]), self._ids)

    @cached_property
    def _ids(self) -> LabelIds:
        return LabelIds(self.labels)

    def _checked(self, read: Row, ids: LabelIds) -> dict[str, Any]:
        problems, where = Problems(self.where), place(read.number, read.line)
        if read.number == 1:
            check_columns(self.wanted, list(read.cells), self.where)
        row, found = canonical_row(self.schema, {name: read.cells.get(name) for name in self._columns()}, self.wanted)
        note(problems, where, found)
        column = self.schema.label_column
        if not problems.count and column in row and self.labels:
            label = relabelled(row[column], self.known_map, self.user_map)
            row[column] = ids.of(label, where, str(self.wanted[column]), problems)
        problems.raise_if_any("correct or remove this row")
        return {"row": read.number, **row}

    def _columns(self) -> Iterator[str]:
        for source in self.wanted.values():
            yield from [source] if isinstance(source, str) else source
