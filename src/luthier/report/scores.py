"""The scores of one run in one table, what is to be known of the rows that they are of, and what the run cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.metric_names import higher_is_better
from luthier.report.baselines import COLUMN, baselines_of, marks_of, score_title, untuned_of
from luthier.report.intervals import bounded_interval
from luthier.report.ran import chosen_by_validation
from luthier.report.results import Cell
from luthier.report.tables import COSTS, SPLITS, cost_text
from luthier.report.text import figure_text, interval_text, number_text

BEFORE = "before tuning"
_NONE = [("", True)] * 4


def score_table(cell: Cell) -> dict[str, Any] | None:
    """Every score once: one line a metric and one column a split where names tell splits, else one line a score. What a
    later stage scored anew stands below, with the earlier stage's name.

    The table has `columns` and `rows`; every cell of a row is (text, whether it is a number).
    """
    of_stages = {stage: _scores_of(cell, stage) for stage in cell.stages}
    newest = {name: stage for stage, found in of_stages.items() for name in found}
    if not newest:
        return None
    last = {name: of_stages[stage][name] for name, stage in newest.items()}
    lists = [("", last)]
    for stage, found in of_stages.items():
        lists.append((f" ({stage})", {name: one for name, one in found.items() if one.text != last[name].text}))
    splits = [split for split in SPLITS if any(name.startswith(f"{split}/") for name in last)]
    if splits and all(name.partition("/")[0] in splits for name in last):
        heads = ["{}", "95 % over {} rows", f"{COLUMN} on {{}}", f"{BEFORE} on {{}}"]
        columns = ["score", *(head.format(split) for split in splits for head in heads), "better is"]
        rows = [row for of, scores in lists for row in _by_split(scores, splits, of)]
        return _without_empty(columns, rows)
    rows = [
        [(f"{one.title}{of}", False), *one.texts(), (_better(name), False)]
        for of, scores in lists
        for name, one in scores.items()
    ]
    return _without_empty(["score", "value", "95 % interval over rows", COLUMN, BEFORE, "better is"], rows)


@dataclass(frozen=True)
class _Score:
    """A score as texts: its title, its value, its interval, the trivial baseline, and the model before it was tuned."""

    title: str
    text: str
    interval: str
    trivial: str
    before: str

    def texts(self) -> list[tuple[str, bool]]:
        return [(self.text, True), (self.interval, True), (self.trivial, True), (self.before, True)]


def _scores_of(cell: Cell, stage: str) -> dict[str, _Score]:
    """The scores of one stage by name."""
    metrics = cell.stages[stage]
    trivial, before, intervals = baselines_of(metrics), untuned_of(metrics), metrics["intervals"]
    found = {}
    for name, value in metrics["scores"].items():
        interval = intervals.get(name)
        if interval is None and name == "validation/accuracy":
            interval = own_interval(cell, name, stage)
        found[name] = _Score(
            score_title(metrics, name),
            number_text(value),
            interval_text(interval),
            trivial[name].text if name in trivial else "",
            number_text(before[name]) if name in before else "",
        )
    return found


def _by_split(scores: Mapping[str, _Score], splits: Sequence[str], of: str) -> list[list[tuple[str, bool]]]:
    """A row for every metric, with the texts of its score on each split; see `score_table`."""
    rows = []
    for metric in dict.fromkeys(name.partition("/")[2] for name in scores):
        found = [scores.get(f"{split}/{metric}") for split in splits]
        title = next(one.title.partition("/")[2] for one in found if one is not None)
        texts = [text for one in found for text in (_NONE if one is None else one.texts())]
        rows.append([(f"{title}{of}", False), *texts, (_better(metric), False)])
    return rows


def _better(name: str) -> str:
    return "higher" if higher_is_better(name) else "lower"


def _without_empty(columns: list[str], rows: list[list[tuple[str, bool]]]) -> dict[str, Any]:
    kept = [n for n in range(len(columns)) if any(row[n][0] for row in rows)]
    shown = [[row[n] for n in kept] for row in rows]
    return {"columns": [columns[n] for n in kept], "rows": shown, "left_out": 0}


def own_interval(cell: Cell, name: str, stage: str | None = None) -> tuple[float, float] | None:
    """The interval of one run's score over rows, where it tells which of them it got right: as the last stage that has
    it tells, or as one does that is named."""
    told = cell if stage is None else replace(cell, stages={stage: cell.stages[stage]})
    drawn = told.drawn(name)
    return None if drawn is None else bounded_interval(drawn, told.rows_alike(name))


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
    return [(_cost_name(key, cell.trained), _cost(key, value)) for key, value in del_parameters.items()]


def _cost_name(key: str, trained: bool) -> str:
    names = {"seconds": "training seconds" if trained else "seconds", "bytes_on_disk": "on disk"}
    return names.get(key, key.removesuffix("_bytes").replace("_", " "))


def _cost(key: str, value: float) -> str:
    return cost_text(key, value) if key in COSTS else figure_text(value)


def marks(cell: Cell) -> list[str]:
    """What a reader must not miss of a model that learned nothing, each once."""
    found = dict.fromkeys(mark for metrics in cell.stages.values() for mark in marks_of(metrics))
    return [f"{mark[:1].upper()}{mark[1:]}." for mark in found]
