"""What a saved model is asked about: texts, or the rows of a file, in the columns that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import DataError, ModelError

if TYPE_CHECKING:
    from luthier.data.rows.canonical import Columns
    from luthier.data.schemas import TaskSchema
    from luthier.data.settings import DataSettings
    from luthier.data.splits import RawSplit
    from luthier.models.card import ModelCard

Row = dict[str, Any]
_ALIKE = ("delimiter", "column_names", "encoding", "max_line_megabytes")


def columns_to_predict(card: ModelCard, where: str) -> dict[str, str | list[str]]:
    """Canonical column -> column of the training file, for all that the model is shown and not asked for.

    Raises:
        ModelError: the model was not trained on a task.
    """
    from luthier.data.schemas import SCHEMAS
    from luthier.models.trained_columns import columns_read

    learned = SCHEMAS[card.schema].learned if card.schema and card.schema in SCHEMAS else ()
    columns = {name: source for name, source in columns_read(card).items() if name not in learned}
    if card.schema and card.schema not in SCHEMAS:
        raise ModelError(
            f"the model was trained for the task {card.schema}, which nothing that is installed brings",
            where=where,
            fix="install the package that names it in the entry-point group `luthier.plugins`, or import its module",
        )
    if not columns:
        raise ModelError(
            f"the card names no task that the model was trained for, so it predicts nothing (schema: {card.schema})",
            where=where,
            fix="name a model that a tune stage saved",
        )
    return columns


def rows_of_texts(texts: list[str] | str, pairs: list[str] | str | None, card: ModelCard, where: str) -> list[Row]:
    """Texts as rows for a model that reads one text, or two, a row.

    Raises:
        DataError: the model reads something else.
    """
    from luthier.data.texts import paired
    from luthier.tasks.base import task_named

    columns = columns_to_predict(card, where)
    read = set(columns)
    if read == {"text", "text_pair"}:
        if pairs is None:
            raise DataError(
                "the model reads two texts a row, text and text_pair", where=where, fix="give --pair for every --text"
            )
        return [{"text": first, "text_pair": second} for first, second in paired(texts, pairs)]
    singles, task = paired(texts, None), task_named(str(card.schema))
    rows = [task.row_of_text(name, text, number) for number, text in enumerate(singles, 1) for name in read]
    if len(read) > 1 or None in rows:
        raise DataError(
            f"a text can't hold what the model reads, which is {', '.join(columns)} ({card.schema})",
            where=where,
            fix=f"write rows with the columns {_told(columns)} into a file, and give it with --file",
        )
    if pairs is not None:
        raise DataError("the model reads one text a row", where=where, fix="leave --pair out")
    return [row for row in rows if row is not None]


def _told(columns: Mapping[str, str | list[str]]) -> str:
    return ", ".join(one if isinstance(one, str) else " and ".join(one) for one in columns.values())


def rows_of_file(file: str, card: ModelCard) -> list[Row]:
    """Rows of a file as the model was trained to read them; labels may be there, and are not read.

    The columns are called as in the training file. Rows for a model that was trained on a set known by name may have
    the canonical names, too.

    Raises:
        DataError: the file can't be read, lacks a column, or has cells that can't be used.
    """
    from luthier.data.assembly import check_choices
    from luthier.data.schemas import SCHEMAS
    from luthier.data.splits import canonical_rows

    columns = columns_to_predict(card, file)
    schema, settings = SCHEMAS[str(card.schema)], _settings(file, card)
    raw = _raw_rows(file, settings, card, schema)
    mapping = _names_in(raw, columns, card) | dict(raw.formed)
    _refuse_missing(raw, {name: mapping.get(name, name) for name in columns})
    rows = canonical_rows(raw, schema, mapping, settings, tuple(columns))
    if rows is None or not len(rows):
        raise DataError("there are no rows to predict", where=file)
    if "choices" in columns and not (card.text_form and card.text_form.ranks_candidates):
        check_choices({"test": rows}, schema)
    names = [name for name in rows.columns if name in columns or name in ("row", "history")]
    return [{name: rows.columns[name][i] for name in names} for i in range(len(rows))]


def _refuse_missing(raw: RawSplit, wanted: Columns) -> None:
    """Raises:
    DataError: a column that the model reads is not there; names all of them.
    """
    from luthier.data.rows.canonical import missing_columns
    from luthier.data.table import listing

    present = list(raw.table.columns)
    missing = [name for _, name in missing_columns(wanted, present)]
    if not missing:
        return
    lines = present == ["text"] and raw.origin.file is not None and raw.origin.file.format == "txt"
    held = "each line of a text file is one `text`: " if lines else f"the columns are {listing(present)}: "
    raise DataError(
        f"there is no column {' and no column '.join(map(repr, missing))}",
        where=raw.table.name,
        fix=f"{held}give a file with the columns that the model was trained on, {_told(wanted)}",
    )


def _settings(file: str, card: ModelCard) -> DataSettings:
    """How the file is read: as the training files, which its rows may have the columns of."""
    from luthier.data.schemas import SCHEMAS
    from luthier.data.settings import DataSettings
    from luthier.data.texts import encoding_of
    from luthier.models.trained_columns import known_set_of, named_columns

    data, columns = card.data or {}, SCHEMAS[str(card.schema)].all_columns
    alike = {name: data[name] for name in _ALIKE if data.get(name) is not None}
    if data.get("format") is not None and _named_like_training(file, data):
        alike["format"] = data["format"]
    alike["encoding"] = encoding_of(file, str(alike.get("encoding", "utf-8")))
    named = {name: source for name, source in named_columns(card).items() if name in columns}
    return DataSettings.model_validate(
        {"test": file, "task": card.schema, "labelled": False, **alike, **(named if known_set_of(card) is None else {})}
    )


def _named_like_training(file: str, data: Mapping[str, Any]) -> bool:
    """Whether a file's name tells no more about its format than those of the training files did."""
    from luthier.data.sources.base import FORMATS

    suffix = _suffix(file)
    return suffix not in FORMATS or suffix in {_suffix(str(data.get(s))) for s in ("train", "validation", "test")}


def _suffix(name: str) -> str:
    from luthier.data.sources.base import unpacked

    return Path(unpacked(name).lower()).suffix


def _raw_rows(file: str, settings: DataSettings, card: ModelCard, schema: TaskSchema) -> RawSplit:
    """The rows as they were read, shaped as those of the set that the model was trained on where they have its form."""
    from dataclasses import replace

    from luthier.data.reading.layouts import shape
    from luthier.data.sources.origins import plan
    from luthier.models.trained_columns import known_set_of

    origin = plan(settings)["test"]
    try:
        raw = _read(origin, settings, schema)
    except DataError:
        names = settings.column_names or []
        label = (card.data or {}).get(schema.label_column or "") or schema.label_column
        learned = set(label if isinstance(label, list) else [label])
        if not learned <= set(names):
            raise
        rest = settings.model_copy(update={"column_names": [name for name in names if name not in learned]})
        raw = _read_or_none(origin, rest, schema)
        if raw is None:
            raise
    if raw is None:
        raise DataError("there are no rows to predict", where=file)
    known = known_set_of(card)
    if origin.known is None and known is not None and known.derive is not None:
        try:
            shaped = shape(known.derive, replace(raw.table, columns=dict(raw.table.columns)))
        except DataError:
            return raw
        return replace(raw, table=shaped, kept=list(range(len(shaped))))
    return raw


def _read(origin: Any, settings: DataSettings, schema: TaskSchema) -> RawSplit | None:
    """The rows as the training file's were read; those that lack its columns may have a form of their own."""
    from luthier.data.rows.canonical import missing_columns
    from luthier.data.splits import read_origin

    raw, named = read_origin(origin, settings), settings.columns()
    shown = {name: source for name, source in named.items() if name not in schema.learned}
    if raw is None or not missing_columns(shown, raw.table.columns):
        return raw
    return read_origin(origin, settings.model_copy(update=dict.fromkeys(named)))


def _read_or_none(origin: Any, settings: DataSettings, schema: TaskSchema) -> RawSplit | None:
    try:
        return _read(origin, settings, schema)
    except DataError:
        return None


def _names_in(raw: RawSplit, columns: Columns, card: ModelCard) -> dict[str, str | list[str]]:
    """What the table calls the columns: the first of the possible names that are all there."""
    from luthier.models.trained_columns import known_set_of, named_columns

    if raw.origin.known is not None:
        return dict(raw.origin.known.columns)
    possible = [dict(columns)]
    if known_set_of(card) is not None:
        named = named_columns(card)
        possible += [{name: named.get(name, name) for name in columns}, {name: name for name in columns}]
    present = set(raw.table.columns)
    for names in possible:
        sources = [one for source in names.values() for one in ([source] if isinstance(source, str) else source)]
        if present.issuperset(sources):
            return names
    return possible[-1]
