"""Which columns of a table are read, and what the model is shown of them."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.data.rows.canonical import Columns
from luthier.data.schemas import TaskSchema, TrainedOn
from luthier.data.text_form import TextForm
from luthier.errors import DataError


def columns_to_read(
    schema: TaskSchema, mapping: Columns, present: Sequence[str], trained: TrainedOn | None
) -> tuple[str, ...]:
    """The canonical columns that are read of every split: those that the table and the settings bring, or, of those
    that a task may lack, the ones that a model was trained on."""
    if trained is None or trained.task != schema.name:
        return schema.read(mapping, present)
    optional = tuple(name for name in schema.optional if name in trained.columns)
    return schema.columns + optional + tuple(name for name in schema.unsure if name in present)


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
    read = [name for name in read if name not in schema.unsure]
    shown = read if form is None else (*form.columns, *(("candidate",) if form.ranks_candidates else ()))
    return {name: mapping.get(name, name) for name in shown}
