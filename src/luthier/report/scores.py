"""The scores of one run in one table, what is to be known of the rows that they are of, and what the run cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.metric_names import higher_is_better
from luthier.report.baselines import COLUMN, baselines_of, marks_of, score_title, untuned_of
from luthier.report.intervals import bounded_interval
from luthier.report.ran import chosen_by_validation
from luthier.report.results import Cell
from luthier.report.tables import COSTS, SPLITS, cost_text, interval_text
from luthier.report.text import number_text

BEFORE = "before tuning"


def score_table(cell: Cell) -> dict[str, Any] | None:
    """Every score once: one line a metric and one column a split where names tell splits, else one line a score.

    The table has `columns` and `rows`; every cell of a row is (text, whether it is a number).
    """
    scores: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for metrics in cell.stages.values():
        scores |= metrics["scores"]
        intervals |= metrics["intervals"]
        if "validation/accuracy" in metrics["scores"] and (found := own_interval(cell, "validation/accuracy")):
            intervals.setdefault("validation/accuracy", found)
    if not scores:
        return None
    beside = {k: v.text for metrics in cell.stages.values() for k, v in baselines_of(metrics).items()}
    before = {
        name: number_text(value) for metrics in cell.stages.values() for name, value in untuned_of(metrics).items()
    }
    titles = {k: score_title(metrics, k) for metrics in cell.stages.values() for k in metrics["scores"]}
    splits = [split for split in SPLITS if any(name.startswith(f"{split}/") for name in scores)]
    if splits and all(name.partition("/")[0] in splits for name in scores):
        return _by_split(scores, intervals, splits, {COLUMN: beside, BEFORE: before}, titles)
    rows = [
        [
            (titles[name], False),
            (number_text(value), True),
            (interval_text(intervals.get(name)), True),
            (beside.get(name, ""), True),
            (before.get(name, ""), True),
            (_better(name), False),
        ]
        for name, value in scores.items()
    ]
    return _without_empty(["score", "value", "95 % interval over rows", COLUMN, BEFORE, "better is"], rows)


def _by_split(
    scores: dict[str, float],
    intervals: dict[str, tuple[float, float]],
    splits: Sequence[str],
    beside: dict[str, dict[str, str]],
    titles: dict[str, str],
) -> dict[str, Any]:
    """See `score_table`; `beside` holds for each column that stands beside the scores its texts by score."""
    rows = []
    for metric in dict.fromkeys(name.partition("/")[2] for name in scores):
        names = [f"{split}/{metric}" for split in splits]
        row = [(next(titles[name].partition("/")[2] for name in names if name in titles), False)]
        for name in names:
            row.append((number_text(scores[name]) if name in scores else "", True))
            row.append((interval_text(intervals.get(name)), True))
            row += [(texts.get(name, ""), True) for texts in beside.values()]
        rows.append([*row, (_better(metric), False)])
    heads = ["{}", "95 % over {} rows", *(f"{column} on {{}}" for column in beside)]
    columns = [head.format(split) for split in splits for head in heads]
    return _without_empty(["score", *columns, "better is"], rows)


def _better(name: str) -> str:
    return "higher" if higher_is_better(name) else "lower"


def _without_empty(columns: list[str], rows: list[list[tuple[str, bool]]]) -> dict[str, Any]:
    kept = [n for n in range(len(columns)) if any(row[n][0] for row in rows)]
    shown = [[row[n] for n in kept] for row in rows]
    return {"columns": [columns[n] for n in kept], "rows": shown, "left_out": 0}


def own_interval(cell: Cell, name: str) -> tuple[float, float] | None:
    """The interval of one run's score over rows, where it tells which of them it got right."""
    drawn = cell.drawn(name)
    return None if drawn is None else bounded_interval(drawn, cell.rows_alike(name))


def score_notes(cells: Sequence[Cell], split: str = "") -> list[str]:
    """What is to be known of the rows that were scored.

    Args:
        cells: the runs.
        split: the one that the scores are of; empty for a table that shows all.
    """
    scored = {name.partition("/")[0] for cell in cells for m in cell.stages.values() for name in m["scores"]}
    if "validation" not in scored or split not in ("", "validation") or not chosen_by_validation(cells):
        return []
    text = "The validation rows chose which step's weights were kept, so scores on them are a little too good."
    others = " The test rows took no part." if "test" in scored and not split else ""
    return [text + (others or " Rows that took no part would tell more.")]


def cost_facts(cell: Cell) -> list[tuple[str, str]]:
    """(label, text) of what a run cost, each once: seconds add up, of memory the largest counts, of all else the last
    stage's."""
    found: dict[str, float] = {}
    for metrics in cell.stages.values():
        for key, value in metrics["cost"].items():
            if key in COSTS and (known := cell.cost(key)) is not None:
                found[key] = known
            elif key not in ("total_parameters", "trainable_parameters"):
                found[key] = value
    del_parameters = {key: value for key, value in found.items() if key != "trainable_parameters"}
    return [(_cost_name(key), _cost(key, value)) for key, value in del_parameters.items()]


def _cost_name(key: str) -> str:
    return {"seconds": "training seconds", "bytes_on_disk": "on disk"}.get(
        key, key.removesuffix("_bytes").replace("_", " ")
    )


def _cost(key: str, value: float) -> str:
    if key in COSTS:
        return cost_text(key, value)
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def marks(cell: Cell) -> list[str]:
    """What a reader must not miss of a model that learned nothing, each once."""
    found = dict.fromkeys(mark for metrics in cell.stages.values() for mark in marks_of(metrics))
    return [f"{mark[:1].upper()}{mark[1:]}." for mark in found]
