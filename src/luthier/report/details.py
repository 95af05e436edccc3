"""What the page tells about one cell: its scores, its costs, and the sections that its stages add."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from luthier.metric_names import higher_is_better
from luthier.report.plots import draw_section_plot
from luthier.report.results import Cell, Run
from luthier.report.tables import COSTS, Line, Table, cost_text

logger = logging.getLogger(__name__)
MOST_SAMPLES = 50
MOST_TABLE_ROWS = 200
MOST_PLOTS = 80


class PlotBudget:
    """Counts the plots that cells add, so that a page over a large grid stays one that a browser can open."""

    def __init__(self, left: int = MOST_PLOTS) -> None:
        self.left = left

    def draw(self, plot: Mapping[str, Any], title: str) -> dict[str, str]:
        """`svg`, or a `note` that says why there is none."""
        if not self.left:
            return {"note": f"The page draws {MOST_PLOTS} plots of single runs; this one is left out."}
        try:
            svg = draw_section_plot(plot, title)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
            logger.warning("a plot of section %r can't be drawn: %s", title, error)
            return {"note": f"The plot can't be drawn: {error}"}
        self.left -= 1
        return {"svg": svg}


def across_lines(table: Table, budget: PlotBudget) -> list[dict[str, Any]]:
    """What the evaluation suites tell about all lines of a comparison together, as the template shows it."""
    return [_section(section, budget) for section in across_sections(table)]


def across_sections(table: Table) -> list[dict[str, Any]]:
    """What the evaluation suites tell about all lines of a comparison together, as data."""
    from luthier.registry import SUITES

    baseline = next((line.row.label for line in table.lines if line.is_baseline), None)
    sections: list[dict[str, Any]] = []
    for name in SUITES.names() if baseline is not None else ():
        found = {line.row.label: of for line in table.lines if (of := _details_of(line, name))}
        if baseline in found and len(found) > 1:
            try:
                sections += SUITES.get(name).across(found, baseline)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                logger.warning("the lines can't be compared by the suite %r: %s", name, error)
    return sections


def _details_of(line: Line, name: str) -> list[Any]:
    stages = [stage for cell in line.row.cells.values() for stage in cell.stages.values()]
    return [stage["details"][name] for stage in stages if name in stage["details"]]


def describe_cell(cell: Cell, run: Run | None, budget: PlotBudget) -> dict[str, Any]:
    """What the template shows of one cell, which goes by the name of its run too where that is given."""
    stages = []
    for name, metrics in cell.stages.items():
        intervals = metrics["intervals"]
        scores = [
            (k, f"{v:.4f}", interval_text(intervals.get(k)), "higher" if higher_is_better(k) else "lower")
            for k, v in metrics["scores"].items()
        ]
        costs = [(k.removesuffix("_bytes").replace("_", " "), _cost(k, v)) for k, v in metrics["cost"].items()]
        stages.append({"name": name, "scores": scores, "costs": costs, "extras": _extras(metrics["details"], budget)})
    name = cell.name if run is None or run.name == cell.name else f"{run.name} / {cell.name}"
    return {"name": name, "cell": cell, "stages": stages, "score": _primary(cell)}


def _primary(cell: Cell) -> str:
    return f"{cell.primary[0]} {cell.primary[1]:.4f}" if cell.primary else ""


def interval_text(pair: tuple[float, float] | None) -> str:
    """`0.7120 to 0.7433`, or nothing."""
    return f"{pair[0]:.4f} to {pair[1]:.4f}" if pair else ""


def _cost(key: str, value: float) -> str:
    if key in COSTS:
        return cost_text(key, value)
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def _extras(details: Mapping[str, Any], budget: PlotBudget) -> list[dict[str, Any]]:
    """A reliability diagram where there are bins, and the stage's own sections. What has another shape is left out."""
    extras = []
    calibration = details.get("calibration")
    if isinstance(calibration, dict) and calibration.get("bins"):
        title = "Reliability: accuracy against confidence"
        extras.append({"title": title, **budget.draw({"kind": "reliability", "bins": calibration["bins"]}, title)})
    sections = details.get("sections")
    for section in sections if isinstance(sections, list) else []:
        if isinstance(section, dict):
            extras.append(_section(section, budget))
    return extras


def _section(section: Mapping[str, Any], budget: PlotBudget) -> dict[str, Any]:
    extra: dict[str, Any] = {"title": str(section.get("title") or "")}
    if section.get("text"):
        extra["text"] = str(section["text"])
    if isinstance(section.get("plot"), dict):
        extra |= budget.draw(section["plot"], extra["title"])
    if isinstance(section.get("table"), dict):
        extra["table"] = table_of(section["table"])
    if isinstance(section.get("samples"), list):
        extra["samples"] = [_sample(sample) for sample in section["samples"][:MOST_SAMPLES]]
        extra["left_out"] = max(0, len(section["samples"]) - MOST_SAMPLES)
    return extra


def table_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and rows; every cell as (text, whether it is a number)."""
    columns, rows = table.get("columns"), table.get("rows")
    lines = [row for row in rows if isinstance(row, list)] if isinstance(rows, list) else []
    return {
        "columns": columns if isinstance(columns, list) else [],
        "rows": [[_value(value) for value in row] for row in lines[:MOST_TABLE_ROWS]],
        "left_out": max(0, len(lines) - MOST_TABLE_ROWS),
    }


def _value(value: Any) -> tuple[str, bool]:
    if value is None:
        return "", False
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}", True
    return str(value), isinstance(value, int) and not isinstance(value, bool)


def _sample(sample: Any) -> list[tuple[str, str]]:
    """A sample as (name, text) pairs; a bare text has no name."""
    if isinstance(sample, dict):
        return [(str(name), str(text)) for name, text in sample.items()]
    return [("", str(sample))]
