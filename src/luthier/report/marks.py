"""Marks of the lines of a comparison: a few words in the table, and below it once what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from luthier.report.baselines import BY_BASELINE, trivial_text
from luthier.report.results import Cell

if TYPE_CHECKING:
    from luthier.report.statistics import Row

COLUMN = "marks"
# Scores on fewer rows than this are marked.
FEW_ROWS = 100
_FEW, _NO_BETTER, _OTHER = "few rows", "not shown better", "other"
_BY = f"{_NO_BETTER} by "
# What a mark reads like in full -> its few words.
_KINDS = {
    "predicts one class only": "one class",
    "nearly constant predictions": "nearly constant",
    BY_BASELINE: _BY,
    "worse than before tuning": "made worse",
    "train longer": "train longer",
    "rows stand in the training rows": "repeated rows",
    "no interval of ": "no interval",
}
_MEANINGS = {
    "one class": "it answers every row with the same class",
    "nearly constant": "its predictions hardly differ from row to row",
    _NO_BETTER: "the rows that were scored do not show that it is better than the trivial baseline",
    "made worse": "the model scored better before it was tuned",
    "train longer": "validation still got better when training ended",
    "repeated rows": "texts of the rows that were scored stand in the training rows, too",
    "no interval": "no draw of the rows changes the score, as where every row is right",
    _FEW: f"fewer than {FEW_ROWS} rows were scored, so that scores move by chance",
    _OTHER: "see the run",
}


def marks_text(row: Row) -> str:
    """The marks of a line in few words, each with the number of its cells that have it, where not all do."""
    found: dict[str, int] = {}
    for cell in row.cells.values():
        for mark in dict.fromkeys(_of_cell(cell, row.score_name or "")):
            found[mark] = found.get(mark, 0) + 1
    cells = len(row.cells)
    return ", ".join(f"{mark} ({count} of {cells})" if count < cells else mark for mark, count in found.items())


def marks_legend(rows: Sequence[Row]) -> str:
    """What the marks of these lines mean, each once; empty where there are none."""
    shown = "; ".join(f"{marks_text(row)}; {trivial_text(row)}" for row in rows)
    told = [f"{words}: {meaning}" for words, meaning in _MEANINGS.items() if words in shown]
    return f"Marks. {'; '.join(told)}." if told else ""


def scored_row_count(cell: Cell, score: str) -> int:
    """How many rows a score of a cell is of; 0 where no stage tells."""
    if (count := cell.rows_alike(score)) is not None:
        return count
    split = score.partition("/")[0]
    found = 0
    for metrics in cell.stages.values():
        ran = metrics["details"].get("ran")
        scored = ran.get("scored") if isinstance(ran, Mapping) else None
        if isinstance(scored, Mapping) and scored.get("split") == split:
            found = max(found, _count(scored.get("rows")))
        rows = metrics["details"].get("rows")
        if isinstance(rows, Mapping):
            found = max(found, _count(rows.get(split)))
    return found


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _of_cell(cell: Cell, score: str) -> Iterator[str]:
    own = score.rpartition("/")[2]
    for metrics in cell.stages.values():
        marks = metrics.get("marks")
        for mark in marks if isinstance(marks, list) else ():
            words = next((words for part, words in _KINDS.items() if part in str(mark)), _OTHER)
            if words != _BY:
                yield words
            # The line says of its own score whether the baseline is as good.
            elif others := [name for name in str(mark).partition(" by ")[2].split(", ") if name != own]:
                yield f"{_BY}{', '.join(others)}"
    if 0 < scored_row_count(cell, score) < FEW_ROWS:
        yield _FEW
