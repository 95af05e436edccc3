"""What is wrong with the sources and columns of data settings, told from the first rows of local files.

Nothing is downloaded, no file is read whole, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.data.guessing.advice import advised, refuse_words_as_rows
from luthier.data.reading.forms import UnusableRowError, example_of, in_form
from luthier.data.reading.heads import MOST_BYTES, head_of
from luthier.data.rows.canonical import Columns, check_apart, missing_columns, wanted_columns
from luthier.data.rows.columns import columns_to_read
from luthier.data.schemas import SCHEMAS, TaskSchema, TrainedOn
from luthier.data.settings import DataSettings
from luthier.data.sources.origins import Origin, key_of, sought, without_effect
from luthier.data.splits import (
    RawSplit,
    choose_schema,
    column_mapping,
    form_of_origin,
    options_of,
    own_rows,
    rows_of_folder,
)
from luthier.data.table import Table, listing
from luthier.errors import DataError, nearest


@dataclass
class Look:
    """What was seen of data settings.

    Attributes:
        wrong: (key of the data block, error) of everything that loading them would fail for.
        read: the task and the columns that a model trained on them reads; None where only the rows can tell.
        exchanges: whether some of the rows that were seen hold conversations of several messages.
    """

    wrong: list[tuple[str, DataError]] = field(default_factory=list)
    read: TrainedOn | None = None
    exchanges: bool = False


def look_at(settings: DataSettings, trained: TrainedOn | None = None, *, whole: bool = True) -> Look:
    """Look at where the rows come from, and at the columns of local files.

    Args:
        settings: the data block, without references to the environment.
        trained: what the model that will meet the rows was trained on, where that is known.
        whole: whether the block says by itself how its rows are read; if not, what it leaves open is not judged.
    """
    origins, wrong = sought(settings)
    wrong |= without_effect(settings, origins) if not wrong else {}
    look = Look(list(wrong.items()))
    heads: dict[str, RawSplit] = {}
    for split, origin in origins.items():
        key = key_of(settings, split)
        if key in wrong:
            continue
        try:
            head = _head(origin, settings)
        except DataError as error:
            look.wrong.append((key, error))
            continue
        if head is not None:
            heads[split] = head
    look.exchanges = any(any(head.table.columns.get("history", ())) for head in heads.values())
    _look_at_columns(settings, origins, heads, trained, whole, look)
    return look


def _head(origin: Origin, settings: DataSettings) -> RawSplit | None:
    """The first rows of a local file, in their form; None for what is no file of the user's, or can't be seen so."""
    if origin.folder is not None:
        table: Table | None = rows_of_folder(origin, settings)
    elif origin.file is None:
        assert origin.hub is not None or origin.files  # raises where a file of a known set is missing
        return None
    else:
        own = own_rows(origin, settings) if origin.file.path.stat().st_size <= MOST_BYTES else None
        table = own or head_of(origin.file, options_of(settings))
    if table is None:
        return None
    form = form_of_origin(origin, settings, example_of(table))
    if form is not None:
        try:
            table = in_form(table, form)
        except (DataError, UnusableRowError):
            return None  # rows with faults, which are told when all of them are read
    return RawSplit(origin, table, list(range(len(table))), formed=form.columns if form else {})


def _look_at_columns(
    settings: DataSettings,
    origins: Mapping[str, Origin],
    heads: Mapping[str, RawSplit],
    trained: TrainedOn | None,
    whole: bool,
    look: Look,
) -> None:
    if not heads:
        return
    user_files = any(origin.known is None for origin in origins.values())
    mappings = {
        split: dict(column_mapping(head.origin, settings, user_files=user_files)) | dict(head.formed)
        for split, head in heads.items()
    }
    first = next(iter(origins))
    base = first if first in heads else next(iter(heads))
    try:
        schema = _schema_of(settings, origins[first], heads.get(first), mappings[base], trained, whole)
    except DataError as error:
        look.wrong.append((key_of(settings, first), _with_advice(error, heads[first])))
        return
    if schema is None or not whole:
        for split, head in heads.items():
            _look_at_named(settings, split, head, schema, look)
        return
    read = columns_to_read(schema, mappings[base], list(heads[base].table.columns), trained)
    look.read = TrainedOn(schema.name, read)
    for split, head in heads.items():
        wanted = wanted_columns(schema, mappings[split], settings.labelled, read)
        _look_at_split(settings, split, head, schema, wanted, look)


def _schema_of(
    settings: DataSettings,
    first: Origin,
    head: RawSplit | None,
    mapping: Columns,
    trained: TrainedOn | None,
    whole: bool,
) -> TaskSchema | None:
    """The task of the rows, as far as settings and the first rows of the first split tell.

    Raises:
        DataError: the columns fit none.
    """
    if settings.task is not None:
        return SCHEMAS[settings.task]
    if head is not None:
        return choose_schema(head, mapping, settings, trained) if whole or trained is not None else None
    known = None if settings.columns() else first.known
    return None if known is None else SCHEMAS[known.task]


def _look_at_split(
    settings: DataSettings, split: str, head: RawSplit, schema: TaskSchema, wanted: Columns, look: Look
) -> None:
    table, key, told = head.table, key_of(settings, split), look.wrong
    missing = missing_columns(wanted, table.columns)
    try:
        if schema.label_kind == "classes":
            refuse_words_as_rows(head.origin, settings)
        if not missing:
            check_apart({name: wanted[name] for name in schema.all_columns if name in wanted}, table.name)
    except DataError as error:
        told.append((key, error))
        return
    told += [_missing(settings, key, head, wanted, schema.name, canonical, name) for canonical, name in missing]


def _look_at_named(settings: DataSettings, split: str, head: RawSplit, schema: TaskSchema | None, look: Look) -> None:
    """Look only at the columns that the block names, and that show the model something."""
    label = None if schema is None else schema.label_column
    named = {name: column for name, column in settings.columns().items() if name not in ("label", "tags", label)}
    for canonical, name in missing_columns(named, head.table.columns):
        look.wrong.append(_missing(settings, key_of(settings, split), head, named, None, canonical, name))


def _missing(
    settings: DataSettings, key: str, head: RawSplit, wanted: Columns, task: str | None, canonical: str, name: str
) -> tuple[str, DataError]:
    """The key to be blamed for a column that is not there, and the error."""
    present = list(head.table.columns)
    named, keys = canonical in settings.columns(), advised(head.origin, task)
    guess = nearest(name, [column for column in present if column not in wanted.values()])
    likely = keys.get(canonical, canonical if keys and canonical in present else None)
    # A name that was written is misspelt, mostly; one that was not says only what is wanted.
    if named and guess is not None and isinstance(wanted[canonical], str):
        likely = guess
    if likely is not None and likely != name:
        fix = f"write `{canonical}: {_told(likely)}`; "
    else:
        fix = f"did you mean {guess!r}? " if guess else "" if named else f"name it with `{canonical}: COLUMN`; "
    fix += f"the columns are: {listing(present)}"
    return (canonical if named else key), DataError(f"there is no column {name!r}", where=head.table.name, fix=fix)


def _with_advice(error: DataError, head: RawSplit) -> DataError:
    """The error of a file whose columns fit no task, with what the file looks like for its fix."""
    keys = advised(head.origin, None)
    if not keys:
        return error
    told = ", ".join(f"`{key}: {_told(value)}`" for key, value in keys.items())
    return DataError(error.what, where=error.where, fix=f"it looks like this: {told}")


def _told(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
