"""What stands beside a score: the trivial baseline, whether the model is better, and what its name leaves out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.report.text import number_text

if TYPE_CHECKING:
    from luthier.report.results import Cell
    from luthier.report.statistics import Row

COLUMN = "trivial baseline"
BY_BASELINE = "not shown to be better than the trivial baseline by "


@dataclass(frozen=True)
class Trivial:
    """What answering every row alike comes to, as metrics.json holds it; see `luthier.evaluation.baselines`."""

    score: float
    answer: str
    better: bool

    @property
    def text(self) -> str:
        """`0.5033, not shown better`, or the score alone where the model is better."""
        return number_text(self.score) + ("" if self.better else ", not shown better")


def baselines_of(metrics: Mapping[str, Any]) -> dict[str, Trivial]:
    """Those of a stage by score; what can't be read is left out."""
    kept = metrics.get("baselines")
    return {
        str(name): Trivial(float(one["score"]), str(one.get("answer", "")), one.get("better") is True)
        for name, one in (kept.items() if isinstance(kept, Mapping) else ())
        if isinstance(one, Mapping) and _is_finite(one.get("score"))
    }


def untuned_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Scores of a language model before it was tuned, on the same rows; what can't be read is left out."""
    kept = metrics["details"].get("untuned")
    pairs = kept.items() if isinstance(kept, Mapping) else ()
    return {str(name): float(value) for name, value in pairs if _is_finite(value)}


def marks_of(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader must not miss of a model that learned nothing, with what the baseline answers."""
    marks = metrics.get("marks")
    told = [str(mark) for mark in marks] if isinstance(marks, list) else []
    found = baselines_of(metrics)
    return [f"{mark} ({', '.join(answers)})" if (answers := _answers(mark, found)) else mark for mark in told]


def _answers(mark: str, baselines: Mapping[str, Trivial]) -> list[str]:
    """What the baselines answer that a mark names: those of its scores, and of its head where it is of one of several,
    `HEAD: not shown to be better than the trivial baseline by SCORE, SCORE`."""
    head, said, scores = mark.partition(BY_BASELINE)
    of = f"/{head.removesuffix(': ')}/" if head else "/"
    ends = tuple(of + score for score in scores.split(", ")) if said else ()
    return list(dict.fromkeys(one.answer for name, one in baselines.items() if name.endswith(ends) and one.answer))


def score_title(metrics: Mapping[str, Any], name: str) -> str:
    """The name of a score and what it leaves out: `test/f1 of the label 'yes'`."""
    about = metrics.get("about")
    left_out = about.get(name) if isinstance(about, Mapping) else None
    return f"{name} {left_out}" if isinstance(left_out, str) else name


def trivial_of(cell: Cell, name: str) -> Trivial | None:
    """The baseline beside a cell's score, of the last stage that has that score."""
    for metrics in reversed(list(cell.stages.values())):
        if name in metrics["scores"]:
            return baselines_of(metrics).get(name)
    return None


def trivial_text(row: Row) -> str:
    """The mean baseline of a row's cells, and of how many of them the model is not shown to be better."""
    found = [one for cell in row.cells.values() if (one := trivial_of(cell, row.score_name or "")) is not None]
    if not found:
        return ""
    worse = sum(not one.better for one in found)
    if len(found) == 1 or not worse:
        return Trivial(statistics.fmean(one.score for one in found), "", not worse).text
    which = "not shown better" if worse == len(found) else f"{worse} of {len(found)} not shown better"
    return f"{number_text(statistics.fmean(one.score for one in found))}, {which}"


def trivial_mean(row: Row) -> float | None:
    """The mean baseline of a row's cells."""
    found = [one.score for cell in row.cells.values() if (one := trivial_of(cell, row.score_name or "")) is not None]
    return statistics.fmean(found) if found else None


def title_of(rows: list[Row], name: str) -> str:
    """What the name of a score leaves out, by the first row that tells."""
    for row in rows:
        for cell in row.cells.values():
            for metrics in cell.stages.values():
                if (title := score_title(metrics, name)) != name:
                    return title
    return name


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
