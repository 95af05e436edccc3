"""One self-contained HTML page about runs: no script is needed, nothing is loaded from outside, all text is escaped."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path
from typing import Any

from luthier.report.plots import draw_section_plot, plot_bars, plot_lines, plot_reliability, plot_scatter
from luthier.report.results import Cell, Run, read_runs
from luthier.report.tables import COSTS, Table, comparison_table, cost_text, difference_text

logger = logging.getLogger(__name__)
MOST_SAMPLES = 50


def write_report(folders: list[Path], output: Path | None = None) -> Path:
    """Write the page about one or more run directories.

    Args:
        folders: run directories.
        output: the file; default `report.html` in the first run directory.

    Returns:
        The file that was written.

    Raises:
        WorkspaceError: a folder is no run, or the file can't be written.
    """
    from luthier.files import write_text

    runs = read_runs([Path(f) for f in folders])
    place = Path(output) if output is not None else runs[0].folder / "report.html"
    write_text(place, render(runs))
    return place


def render(runs: list[Run]) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("luthier.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.finalize = visible
    table = comparison_table(runs)
    page = environment.get_template("report.html.j2")
    return page.render(
        title=" and ".join(run.name for run in runs),
        headline=headline(table),
        table=table,
        plots=comparison_plots(runs, table),
        cells=[describe_cell(cell, run) for run in runs for cell in run.cells],
        many=sum(len(run.cells) for run in runs) > 1,
        runs=runs,
        environments=[(run.name, environment_rows(run)) for run in runs],
    )


def visible(value: Any) -> Any:
    """Control and direction-changing characters as visible marks; everything else as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    if value.isprintable():
        return value
    return "".join(c if c in "\n\t" or c.isprintable() or c == " " else _mark(c) for c in value)


def _mark(character: str) -> str:
    return "" if unicodedata.category(character) == "Cs" else f"⟨U+{ord(character):04X}⟩"


def headline(table: Table) -> str:
    """What came out, in words that claim no more than the intervals do."""
    scored = [line for line in table.lines if line.row.mean is not None]
    if not scored:
        return "No run has finished with a score."
    from luthier.report.statistics import higher_is_better

    name = table.score_name
    if len(scored) == 1:
        return f"{scored[0].row.label}: {name} {scored[0].row.mean:.4f}."
    sign = 1 if higher_is_better(name) else -1
    best = max(scored, key=lambda line: sign * (line.row.mean or 0.0))
    text = f"Highest mean {name}: {best.row.label} with {best.row.mean:.4f}"
    text = text if sign > 0 else text.replace("Highest", "Lowest")
    gap = best.difference
    if best.is_baseline:
        rivals = [line for line in scored if line.difference and line.difference.decided]
        return f"{text}, the baseline. {len(rivals)} of {len(scored) - 1} others differ from it beyond their intervals."
    if gap is None:
        return f"{text}. Nothing is paired with the baseline, so no difference can be stated."
    if gap.interval is None:
        return f"{text}. With one seed in common no difference to the baseline can be told from chance."
    shown = f"{difference_text(gap)} over {gap.seeds} seeds"
    if gap.decided:
        return f"{text}; its difference to the baseline is {shown}."
    return f"{text}; its difference to the baseline, {shown}, can't be told from chance."


def comparison_plots(runs: list[Run], table: Table) -> list[tuple[str, str]]:
    """(caption, SVG) of what several cells have in common."""
    plots = []
    scored = {line.row.label: list(line.row.scores.values()) for line in table.lines if line.row.scores}
    if len(scored) > 1:
        title = f"{table.score_name}: mean, standard deviation, and every seed"
        plots.append((title, plot_bars(scored, title=title, x_label=table.score_name)))
    plots += _curve_plots(table)
    for key, name, log in (
        ("trainable_parameters", "trained parameters", True),
        ("seconds", "training seconds", False),
    ):
        points = _cost_points(table, key)
        if len(points) > 1:
            title = f"{table.score_name} against {name}"
            labels = {"x_label": name, "y_label": table.score_name}
            plots.append((title, plot_scatter(points, title=title, log_x=log, **labels)))
    return plots


def _cost_points(table: Table, key: str) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for line in table.lines:
        for seed, score in line.row.scores.items():
            cost = line.row.cells[seed].cost(key)
            if cost:
                points.setdefault(line.row.label, []).append((cost, score))
    return points


def _curve_plots(table: Table) -> list[tuple[str, str]]:
    found: dict[str, dict[str, list[Any]]] = {}
    for line in table.lines:
        for cell in line.row.cells.values():
            for curves in cell.curves.values():
                for name, points in curves.items():
                    if len(points) > 1 and (name == "loss" or name.startswith("validation/")):
                        found.setdefault(name, {}).setdefault(line.row.label, []).append(points)
    order = sorted(found, key=lambda name: (name != "loss", name))[:4]
    plots = []
    for name in order:
        title = "training loss" if name == "loss" else name
        note = ": mean and range over seeds" if table.seeds > 1 else ""
        svg = plot_lines(found[name], title=title + note, x_label="optimiser step", y_label=title)
        plots.append((title + note, svg))
    return plots


def describe_cell(cell: Cell, run: Run) -> dict[str, Any]:
    """What the page tells about one cell."""
    stages = []
    for name, metrics in cell.stages.items():
        intervals = metrics.get("intervals", {})
        scores = [(k, f"{v:.4f}", _interval(intervals.get(k))) for k, v in metrics.get("scores", {}).items()]
        costs = [(k, _cost(k, v)) for k, v in metrics.get("cost", {}).items()]
        details = metrics.get("details", {})
        stages.append({"name": name, "scores": scores, "costs": costs, "extras": _extras(details)})
    return {"name": cell.name if run.name == cell.name else f"{run.name} / {cell.name}", "cell": cell, "stages": stages}


def _interval(pair: Any) -> str:
    return f"{pair[0]:.4f} to {pair[1]:.4f}" if pair else ""


def _cost(key: str, value: float) -> str:
    return cost_text(key, value) if key in COSTS else f"{value:,.4g}"


def _extras(details: dict[str, Any]) -> list[dict[str, Any]]:
    """Plots and tables that a stage adds: a reliability diagram, and its own sections."""
    extras = []
    bins = (details.get("calibration") or {}).get("bins")
    if bins:
        title = "Reliability: accuracy against confidence"
        extras.append({"title": title, "svg": plot_reliability(bins, title=title)})
    for section in details.get("sections") or []:
        extra = {k: section[k] for k in ("title", "text", "table", "samples") if k in section}
        extra.setdefault("title", "")
        if "samples" in extra:
            extra["samples"] = extra["samples"][:MOST_SAMPLES]
        if "plot" in section:
            try:
                extra["svg"] = draw_section_plot(section["plot"], extra["title"])
            except (KeyError, ValueError, TypeError) as error:
                logger.warning("a plot of section %r can't be drawn: %s", extra["title"], error)
        extras.append(extra)
    return extras


def environment_rows(run: Run) -> list[tuple[str, str]]:
    """The run's environment, flat."""
    rows = []
    for key, value in run.environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        rows.append((key.replace("_", " "), str(value)))
    return rows
