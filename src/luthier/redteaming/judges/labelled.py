"""Prompts with answers that people judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from luthier.data.sources.base import FileSource, resolve
from luthier.data.table import listing
from luthier.errors import DataError, nearest
from luthier.redteaming.inputs import read_list

if TYPE_CHECKING:
    from luthier.redteaming.judges.settings import LabelledPairs


class LabelledPair(NamedTuple):
    """A prompt, an answer, and whether people found the answer good."""

    prompt: str
    answer: str
    good: bool


def read_labelled(settings: LabelledPairs) -> list[LabelledPair]:
    """The rows of a file.

    Raises:
        DataError: it can't be read, lacks a column, or has answers of one kind alone.
    """
    source = resolve(settings.file)
    if not isinstance(source, FileSource):
        raise DataError("a file is needed", where=settings.file, fix="name a csv, tsv, jsonl, json or parquet file")
    table = read_list(source)
    columns: list[Sequence[object]] = []
    for wanted in (settings.prompt, settings.response, settings.label):
        if wanted not in table.columns:
            guess = nearest(wanted, list(table.columns))
            raise DataError(
                f"there is no column {wanted!r}; there are {listing(table.columns)}",
                where=settings.file,
                fix=f"did you mean {guess!r}?" if guess else "name the columns: prompt, response, label",
            )
        columns.append(table.columns[wanted])
    bad, rows = {_plain(one) for one in settings.bad}, list[LabelledPair]()
    for number, (prompt, answer, label) in enumerate(zip(*columns, strict=True), 1):
        if len(rows) == settings.limit:
            break
        if not _text(label).strip():
            raise DataError(
                f"row {number} has no {settings.label}", where=settings.file, fix="label it, or leave the row out"
            )
        rows.append(LabelledPair(_text(prompt), _text(answer), _plain(label) not in bad))
    if len({row.good for row in rows}) < 2:
        raise DataError(
            f"all {len(rows)} answers have labels of one kind",
            where=settings.file,
            fix=f"say with `bad` which values of {settings.label!r} are bad; taken as bad: {listing(settings.bad)}",
        )
    return rows


def _plain(label: object) -> str:
    """A label without what is no part of it: blanks around it, and capital letters."""
    return str(label).strip().casefold()


def _text(cell: object) -> str:
    """A cell as text; nothing where it is missing, which tables of numbers say by NaN."""
    return "" if cell is None or cell != cell else str(cell)
