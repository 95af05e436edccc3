"""From the origin of a split to its rows in canonical columns, labels still as text."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.data.catalogue.known_set import Files
from luthier.data.left_out import settle
from luthier.data.reading.forms import Form, example_of, form_of, in_form
from luthier.data.reading.layouts import LAYOUTS, shape
from luthier.data.reading.readers import ReadOptions, read_table
from luthier.data.rows.canonical import (
    Columns,
    canonical_columns,
    canonical_row,
    check_apart,
    check_columns,
    note,
    told_columns,
    wanted_columns,
)
from luthier.data.rows.labels import relabelled, spelled_as
from luthier.data.rows.subsets import cut_shares
from luthier.data.schemas import SCHEMAS, TaskSchema, TrainedOn, infer_task
from luthier.data.settings import DataSettings
from luthier.data.sources.hub import read_hub_split
from luthier.data.sources.origins import Origin
from luthier.data.table import Places, Problems, Table, is_missing
from luthier.errors import DataError

_log = logging.getLogger(__name__)
# Rows that are checked together.
_TOGETHER = 4096
# Of the values of a column of scores, at least.
_MOSTLY_NUMBERS = 0.9


@dataclass
class RawSplit:
    """A split as it was read.

    Attributes:
        origin: where it comes from.
        table: all rows of its file or files.
        kept: 0-based indices of the rows that belong to the split.
        note: what the user should know about how it was made.
        formed: canonical column -> column, of those that the form of the rows brings.
        noted: problems of rows that are left out for them; None where they are refused.
    """

    origin: Origin
    table: Table
    kept: Sequence[int]
    note: str = ""
    formed: Columns = field(default_factory=dict)
    noted: Problems | None = None


@dataclass
class Rows:
    """Rows of a split in canonical columns.

    Attributes:
        columns: canonical column -> values; labels as text; `row` counts the rows of the file from 1.
        label_column: column of the file that the labels are in.
        places: row and line of every row, for messages.
        where: name of the source.
        note, noted: as in RawSplit.
        renamed: names of `label_map` that some row has.
    """

    columns: dict[str, list[Any]]
    label_column: str
    places: Places
    where: str
    note: str = ""
    noted: Problems | None = None
    renamed: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.places)

    def select(self, indices: Sequence[int], note: str | None = None) -> Rows:
        """The rows at 0-based indices."""
        columns = {name: [values[i] for i in indices] for name, values in self.columns.items()}
        places = self.places.select(indices)
        note = self.note if note is None else note
        return Rows(columns, self.label_column, places, self.where, note, self.noted, self.renamed)


def options_of(settings: DataSettings) -> ReadOptions:
    """How the user's own files are read."""
    return ReadOptions(
        format=settings.format,
        delimiter=settings.delimiter,
        column_names=tuple(settings.column_names) if settings.column_names else None,
        encoding=settings.encoding,
        max_line_bytes=round(settings.max_line_megabytes * 1e6),
        tagged=settings.labelled,
    )


def read_origin(origin: Origin, settings: DataSettings) -> RawSplit | None:
    """All rows of a split's origin; None where `source` brings no such split.

    Raises:
        DataError: it can't be read.
    """
    about, known, noted = "", origin.known, Problems(origin.name) if settings.invalid_rows == "drop" else None
    if origin.hub is not None:
        table = read_hub_split(origin)
        if table is None:
            return None
        about = table.about
        table = shape(known.derive if known else None, table)
    elif origin.file is not None:
        table = own_rows(origin, settings, noted) or read_table(origin.file, options_of(settings), noted)
    elif origin.folder is not None:
        table = rows_of_folder(origin, settings, noted)
    else:
        table = _read_set(origin)
    notes = [note for note in (about, known.note if known else "") if note]
    form = form_of_origin(origin, settings, example_of(table))
    if form is not None:
        table = in_form(table, form, noted)
        notes.append(form.about)
    kept: Sequence[int] = range(len(table))
    if origin.cut and known and known.cut:
        kept = cut_shares(len(table), known.cut, origin.name)[origin.cut]
        shares = ", ".join(f"{name} {share:.0%}" for name, share in known.cut.items())
        notes.append(f"there is no official split: cut with a fixed seed into {shares}")
    return RawSplit(origin, table, kept, "; ".join(notes), form.columns if form else {}, noted)


def own_rows(origin: Origin, settings: DataSettings, noted: Problems | None = None) -> Table | None:
    """The rows of a user's file or folder in a format of the named task's own; None for any other."""
    source = origin.file or origin.folder
    if source is None or settings.task is None:
        return None
    dropped = Problems(origin.name) if settings.invalid_rows == "drop" else None
    return SCHEMAS[settings.task].read_source(source, options_of(settings), noted or dropped)


def rows_of_folder(origin: Origin, settings: DataSettings, noted: Problems | None = None) -> Table:
    """The rows of a folder.

    Raises:
        DataError: the named task reads no folders, or none is named, or the files have faults.
    """
    table = own_rows(origin, settings, noted)
    if table is None:
        task = f"the task {settings.task}" if settings.task else "a block that names no task"
        raise DataError(
            f"is a folder of annotated texts, which {task} does not read",
            where=origin.name,
            fix="set `task: joint_extraction`, or name a file",
        )
    return table


def form_of_origin(origin: Origin, settings: DataSettings, record: Mapping[str, Any]) -> Form | None:
    """The form of rows that no known set describes; `record` shows what they hold."""
    if origin.known is not None:
        return None
    return form_of(record, named=settings.columns(), task=settings.task, labelled=settings.labelled)


def _read_set(origin: Origin) -> Table:
    known, split = origin.known, origin.split
    layout = known.splits[split] if known and split else None
    if known is None or not isinstance(layout, Files):
        raise DataError("the set has no files", where=origin.name)
    if layout.layout is not None:
        table = LAYOUTS[layout.layout](origin.files, layout)
    else:
        options = ReadOptions(format=layout.format, column_names=layout.columns)
        table = _joined([read_table(file, options) for file in origin.files])
    return shape(known.derive, table)


def _joined(tables: list[Table]) -> Table:
    first = tables[0]
    if len(tables) == 1:
        return first
    columns = {name: [value for table in tables for value in table.columns[name]] for name in first.columns}
    return Table(first.name, columns)


def tidied(schema: TaskSchema, raw: Mapping[str, RawSplit]) -> dict[str, RawSplit]:
    """The splits as the task reads them; what is not known of rows is a column of all of them, or of none."""
    made = {split: replace(one, table=schema.tidied(one.table)) for split, one in raw.items()}
    for name in schema.unsure:
        if any(name in one.table.columns for one in made.values()):
            for one in made.values():
                one.table.columns.setdefault(name, [None] * len(one.table))
    return made


def column_mapping(origin: Origin, settings: DataSettings, *, user_files: bool) -> Columns:
    """Canonical column -> column of the origin's table.

    Args:
        origin: where the rows come from.
        settings: the user's column names.
        user_files: whether any split is the user's own; if so, the user's names are meant for those, and a known set
            keeps its own.
    """
    user = settings.columns()
    if origin.known is None:
        return user
    return dict(origin.known.columns) | ({} if user_files else user)


def choose_schema(
    raw: RawSplit, mapping: Columns, settings: DataSettings, trained: TrainedOn | None = None
) -> TaskSchema:
    """The user's task, the known set's, that of a trained model whose columns are there, or the one that the columns
    fit.

    Raises:
        DataError: the columns fit none.
    """
    if settings.task is not None:
        return SCHEMAS[settings.task]
    known = raw.origin.known
    if known is not None and not settings.columns():
        return SCHEMAS[known.task]
    present = set(raw.table.columns)
    if trained is not None and _has(present, mapping, trained.columns) and not settings.as_text:
        return SCHEMAS[trained.task]
    canonical = {name for name, source in mapping.items() if isinstance(source, list) or source in present}
    canonical |= present - {source for source in mapping.values() if isinstance(source, str)}
    if not settings.labelled:
        canonical.add("label")
    named = set(mapping) - {"group", "history"}
    task = infer_task(canonical | named, named)
    if task is None:
        raise DataError(
            f"the columns fit no task: {', '.join(raw.table.columns)}",
            where=raw.origin.name,
            fix="name them, as in `text: sentence` and `label: polarity`, or set `task`",
        )
    scored_as = SCHEMAS[task].scored_as
    if scored_as is not None and settings.labelled and not settings.labels and not settings.label_map:
        label = SCHEMAS[task].label_column or ""
        column = mapping.get(label, label)
        if isinstance(column, str) and _holds_scores(raw.table.columns.get(column, [])):
            _log.info("%s: column %r holds fractions, so the task is %s", raw.origin.name, column, scored_as)
            task = scored_as
    schema = SCHEMAS[task]
    if schema.label_column and (ignored := settings.ignored_names(schema)):
        raise DataError(
            f"`{ignored}` has no effect for task {task}, which the columns fit",
            where=raw.origin.name,
            fix=f"leave `{ignored}` out, or set `task`",
        )
    return schema


def _has(present: set[str], mapping: Columns, wanted: Sequence[str]) -> bool:
    """Whether a table has the canonical columns."""
    sources = [mapping.get(name, name) for name in wanted]
    return all(name in present for source in sources for name in ([source] if isinstance(source, str) else source))


def _holds_scores(values: list[Any]) -> bool:
    numbers = []
    for value in values:
        with suppress(TypeError, ValueError, OverflowError):
            numbers.append(float(value))
    if len(numbers) < _MOSTLY_NUMBERS * len(values):
        return False
    return any(math.isfinite(number) and not number.is_integer() for number in numbers)


def canonical_rows(
    raw: RawSplit, schema: TaskSchema, mapping: Columns, settings: DataSettings, read: Sequence[str]
) -> Rows | None:
    """The split's rows in the canonical columns that are read, with their labels; None for an optional split whose
    labels are all hidden.

    Raises:
        DataError: a column is missing, or cells can't be used; lists them by row.
    """
    table, origin = raw.table, raw.origin
    wanted = wanted_columns(schema, mapping, settings.labelled, read)
    check_columns(wanted, list(table.columns), table.name)
    if origin.known is None:
        check_apart({name: wanted[name] for name in schema.all_columns if name in wanted}, table.name)
    label = told_columns(wanted.get(schema.label_column or "", ""))
    if origin.optional and label in table.columns and all(is_missing(value) for value in table.columns[label]):
        _log.info("%s: the labels of split %r are hidden, so it is left out", origin.name, origin.split)
        return None
    skips = origin.known is not None and origin.known.skips_unusable
    problems, kept, columns = _checked(schema, table, raw.kept, wanted)
    if not skips:
        droppable = settings.labelled and raw.noted is None
        out = ", or leave them out with `invalid_rows: drop`" if droppable else ""
        settle(problems, raw.noted, len(kept), f"correct or remove these rows{out}")
    columns = {"row": [table.number(index) for index in kept], **columns}
    left_out = f"{problems.count} rows without text left out" if problems.count and skips else ""
    said = "; ".join(part for part in (raw.note, left_out) if part)
    done = Rows(columns, label, Places(table, kept), table.name, said, raw.noted)
    _relabel(done, schema, origin, settings)
    return done


def _checked(
    schema: TaskSchema, table: Table, indices: Sequence[int], wanted: Columns
) -> tuple[Problems, Sequence[int], dict[str, list[Any]]]:
    """What is wrong with the rows at 0-based indices, the indices of those that can be used, and these in canonical
    columns."""
    problems, kept = Problems(table.name), array("q")
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    sources = {n for source in wanted.values() for n in ([source] if isinstance(source, str) else source)}
    for start in range(0, len(indices), _TOGETHER):
        some = indices[start : start + _TOGETHER]
        cells = {name: _at(table.columns[name], some) for name in sources}
        found = canonical_columns(schema, cells, wanted)
        if found is None:
            some, found = _one_by_one(schema, table, some, wanted, problems)
        for name, values in found.items():
            columns[name] += values
        kept.extend(some)
    return problems, kept, columns


def _one_by_one(
    schema: TaskSchema, table: Table, indices: Sequence[int], wanted: Columns, problems: Problems
) -> tuple[list[int], dict[str, list[Any]]]:
    rows, kept = [], []
    for index in indices:
        row, found = canonical_row(schema, table.record(index), wanted)
        if found:
            note(problems, table.place(index), found)
        else:
            kept.append(index)
            rows.append(row)
    return kept, {name: [row[name] for row in rows] for name in wanted}


def _at(values: list[Any], indices: Sequence[int]) -> list[Any]:
    if isinstance(indices, range) and indices.step == 1:
        return values[indices.start : indices.stop]
    return [values[i] for i in indices]


def _relabel(rows: Rows, schema: TaskSchema, origin: Origin, settings: DataSettings) -> None:
    column = schema.label_column
    renamed = schema.has_classes or schema.label_kind == "choice"
    if not renamed or column is None or column not in rows.columns:
        return
    values = rows.columns[column]
    known = origin.known.label_map if origin.known and settings.label is None else {}
    user, tags = settings.label_map or {}, schema.label_kind == "classes"
    written = {tag for row in values for tag in row} if tags else set(values)
    renamed_as = {value: relabelled(value, known, user) for value in written}
    rows.columns[column] = [[renamed_as[tag] for tag in row] if tags else renamed_as[row] for row in values]
    found = {spelled_as(relabelled(value, known, {}), user) for value in written if user}
    rows.renamed = frozenset(name for name in found if name is not None)
