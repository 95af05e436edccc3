"""What the page tells about one cell: its scores, its costs, and the sections that its stages add."""

from __future__ import annotations

import logging
from typing import Any

from luthier.metric_names import higher_is_better
from luthier.registry import SUITES
from luthier.report.baselines import baselines_of, marks_of, score_title
from luthier.report.results import Cell, Run
from luthier.report.sections import Plot, Section, SectionTable, Value, read_sections, section_of
from luthier.report.tables import COSTS, Line, Table, cost_text
from luthier.report.text import number_text

logger = logging.getLogger(__name__)
MOST_SAMPLES = 50
MOST_TABLE_ROWS = 200
MOST_PLOTS = 80


class PlotBudget:
    """Counts the plots that cells add, so that a page over a large grid stays one that a browser can open."""

    def __init__(self, left: int = MOST_PLOTS) -> None:
        self.left = left

    def draw(self, plot: Plot, title: str) -> dict[str, str]:
        """`svg`, or a `note` that says why there is none."""
        if not self.left:
            return {"note": f"The page draws {MOST_PLOTS} plots of single runs; this one is left out."}
        try:
            svg = plot.draw(title)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            logger.warning("a plot of section %r can't be drawn: %s", title, error)
            return {"note": f"The plot can't be drawn: {error}"}
        self.left -= 1
        return {"svg": svg}


def across_lines(table: Table, budget: PlotBudget) -> list[dict[str, Any]]:
    """What the evaluation suites tell about all lines of a comparison together, as the template shows it."""
    return [_shown(section, budget) for section in across_sections(table)]


def across_sections(table: Table) -> list[Section]:
    """What the evaluation suites tell about all lines of a comparison together."""
    baseline = next((line.row.label for line in table.lines if line.is_baseline), None)
    sections: list[Section] = []
    for name in SUITES.names() if baseline is not None else ():
        found = {line.row.label: of for line in table.lines if (of := _details_of(line, name))}
        if baseline in found and len(found) > 1:
            sections += _told_by(name, "across", found, baseline)
    return sections


def _told_by(name: str, question: str, *arguments: Any) -> list[Section]:
    """The sections that a suite answers a question with; none, and a message, where it can't read what was saved."""
    try:
        return [section_of(section) for section in getattr(SUITES.get(name), question)(*arguments)]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        logger.warning("what the suite %r left can't be shown: %s", name, error)
        return []


def _details_of(line: Line, name: str) -> list[Any]:
    stages = [stage for cell in line.row.cells.values() for stage in cell.stages.values()]
    return [stage["details"][name] for stage in stages if name in stage["details"]]


def describe_cell(cell: Cell, run: Run | None, budget: PlotBudget) -> dict[str, Any]:
    """What the template shows of one cell, which goes by the name of its run too where that is given."""
    stages = []
    for name, metrics in cell.stages.items():
        intervals, baselines = metrics["intervals"], baselines_of(metrics)
        scores = [
            (
                score_title(metrics, k),
                number_text(v),
                interval_text(intervals.get(k)),
                baselines[k].text if k in baselines else "",
                "higher" if higher_is_better(k) else "lower",
            )
            for k, v in metrics["scores"].items()
        ]
        costs = [(k.removesuffix("_bytes").replace("_", " "), _cost(k, v)) for k, v in metrics["cost"].items()]
        extras = _extras(metrics["details"], budget)
        stages.append({"name": name, "scores": scores, "marks": marks_of(metrics), "costs": costs, "extras": extras})
    name = cell.name if run is None or run.name == cell.name else f"{run.name} / {cell.name}"
    return {"name": name, "cell": cell, "stages": stages, "score": _primary(cell)}


def _primary(cell: Cell) -> str:
    return f"{cell.primary[0]} {number_text(cell.primary[1])}" if cell.primary else ""


def interval_text(pair: tuple[float, float] | None) -> str:
    """`0.7120 to 0.7433`, or nothing."""
    return f"{number_text(pair[0])} to {number_text(pair[1])}" if pair else ""


def _cost(key: str, value: float) -> str:
    if key in COSTS:
        return cost_text(key, value)
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def _extras(details: dict[str, Any], budget: PlotBudget) -> list[dict[str, Any]]:
    """What the suites show of their own details, and the stage's sections."""
    sections: list[Section] = []
    for name in SUITES.names():
        if name in details:
            sections += _told_by(name, "shown", details[name])
    return [_shown(section, budget) for section in [*sections, *read_sections(details.get("sections"))]]


def _shown(section: Section, budget: PlotBudget) -> dict[str, Any]:
    """A section as the template shows it."""
    extra: dict[str, Any] = {"title": section.title, "notes": list(section.notes)}
    if section.text:
        extra["text"] = section.text
    if section.facts is not None:
        extra["facts"] = [(name, _value(value)[0]) for name, value in section.facts.items()]
    if section.plot is not None:
        drawn = budget.draw(section.plot, section.title)
        extra["notes"] += [drawn.pop("note")] if "note" in drawn else []
        extra |= drawn
    if section.table is not None:
        extra["table"] = table_of(section.table)
    if section.samples is not None:
        extra["samples"] = [_sample(sample) for sample in section.samples[:MOST_SAMPLES]]
        extra["left_out"] = max(0, len(section.samples) - MOST_SAMPLES)
    return extra


def table_of(table: SectionTable) -> dict[str, Any]:
    """Columns and rows; every cell as (text, whether it is a number)."""
    return {
        "columns": list(table.columns),
        "rows": [[_value(value) for value in row] for row in table.rows[:MOST_TABLE_ROWS]],
        "left_out": max(0, len(table.rows) - MOST_TABLE_ROWS),
    }


def _value(value: Value) -> tuple[str, bool]:
    if value is None:
        return "", False
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}", True
    return str(value), isinstance(value, int) and not isinstance(value, bool)


def _sample(sample: Any) -> list[tuple[str, str]]:
    """A sample as (name, text) pairs; a bare text has no name."""
    return [("", sample)] if isinstance(sample, str) else list(sample.items())
