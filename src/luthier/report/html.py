"""One self-contained HTML page about runs: no script, nothing loaded from outside, all text escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.metric_names import higher_is_better
from luthier.report.choice import recommend
from luthier.report.details import PlotBudget, across_lines, describe_cell
from luthier.report.findings import headline, states
from luthier.report.plots import plot_bars, plot_lines, plot_scatter
from luthier.report.results import Run, read_runs
from luthier.report.svg import COLOURS, DARK_COLOURS
from luthier.report.tables import Line, Table, comparison_table
from luthier.report.text import is_hidden, mark, visible

MOST_SERIES = 10
MOST_CURVES = 4
_KEPT = "\n\t"


def write_report(folders: list[Path], output: Path | None = None) -> Path:
    """Write the page about one or more run directories.

    Args:
        folders: run directories.
        output: the file; default `report.html` in the first run directory.

    Returns:
        The file that was written, in one step: an older one stays whole until then.

    Raises:
        WorkspaceError: a folder is no run, or the file can't be written.
    """
    from luthier.storage.files import write_text

    runs = read_runs([Path(f) for f in folders])
    place = Path(output) if output is not None else runs[0].folder / "report.html"
    write_text(place, render(runs))
    return place


def render(runs: list[Run]) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("luthier.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = _visible
    environment.filters["marked"] = marked
    table, budget = comparison_table(runs), PlotBudget()
    choices = [(run, choice) for run in runs if (choice := recommend(run)) is not None]
    return environment.get_template("report.html.j2").render(
        title=" and ".join(run.name for run in runs),
        headline=next((choice.lead for _, choice in choices if len(runs) == 1), headline(table)),
        choices=[(run.name, choice) for run, choice in choices],
        states=states(runs),
        table=table,
        columns=table.filled_columns(),
        names=len(table.name_columns),
        better="Higher" if higher_is_better(table.score_name) else "Lower",
        plots=comparison_plots(table),
        across=across_lines(table, budget),
        cells=[describe_cell(cell, run if len(runs) > 1 else None, budget) for run in runs for cell in run.cells],
        runs=runs,
        environments=[(run.name, environment_rows(run)) for run in runs],
        colours=list(zip(COLOURS, DARK_COLOURS, strict=True)),
    )


def _visible(value: Any) -> Any:
    """Plain text without hidden characters; everything else as it is."""
    return visible(value, keep=_KEPT) if isinstance(value, str) and not hasattr(value, "__html__") else value


def marked(text: str) -> Any:
    """Text with every hidden character as a mark that stands out, so that text which looks like a mark differs."""
    from markupsafe import Markup, escape

    pieces = (
        Markup('<span class="mark">{}</span>').format(mark(c)) if is_hidden(c) and c not in _KEPT else escape(c)
        for c in text
    )
    return escape(text) if text.isprintable() else Markup("").join(pieces)


def comparison_plots(table: Table) -> list[tuple[str, str]]:
    """(caption, SVG) of what several cells have in common."""
    alike = [line for line in table.lines if line.row.score_name in (table.score_name, None)]
    lines, note = _best(alike, table.score_name)
    scored = {line.row.label: list(line.row.scores.values()) for line in lines if line.row.scores}
    plots = []
    if len(scored) > 1:
        several = table.seeds > 1
        caption = f"{table.score_name}: {'mean ± deviation, and every seed below it' if several else 'one seed each'}"
        plots.append((caption + note, plot_bars(scored, title=caption, x_label=table.score_name)))
    plots += [(caption + note, svg) for caption, svg in _curve_plots(lines, table)]
    for key, name, unit in (
        ("trainable_parameters", "trained parameters", 1.0),
        ("seconds", "training seconds", 1.0),
        ("peak_memory_bytes", "peak memory, GB", 1e9),
    ):
        points = _cost_points(lines, key, unit)
        if len(points) > 1:
            title = f"{table.score_name} against {name}"
            log = key == "trainable_parameters"
            svg = plot_scatter(points, title=title, log_x=log, x_label=name, y_label=table.score_name)
            plots.append((title + note, svg))
    return plots


def _best(lines: list[Line], score_name: str) -> tuple[list[Line], str]:
    """As many lines as the eye can tell apart, in the table's order, and a note where some are left out."""
    if len(lines) <= MOST_SERIES:
        return lines, ""
    sign = 1 if higher_is_better(score_name) else -1
    scored = [line for line in lines if line.row.mean is not None]
    chosen = sorted(scored, key=lambda line: -sign * (line.row.mean or 0.0))[:MOST_SERIES]
    kept = [line for line in lines if line.is_baseline or line in chosen]
    return kept, f" (the best {MOST_SERIES} of {len(lines)}, and the baseline)"


def _cost_points(lines: list[Line], key: str, unit: float) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for seed, score in line.row.scores.items():
            cost = line.row.cells[seed].cost(key)
            if cost and cost > 0:
                points.setdefault(line.row.label, []).append((cost / unit, score))
    return points


def _curve_plots(lines: list[Line], table: Table) -> list[tuple[str, str]]:
    """Training loss and validation scores over steps, those of the metric that the table shows first."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for line in lines:
        for cell in line.row.cells.values():
            for stage, curves in cell.curves.items():
                for name, points in curves.items():
                    if len(points) > 1 and (name == "loss" or name.startswith("validation/")):
                        found.setdefault((stage, name), {}).setdefault(line.row.label, []).append(points)
    metric = table.score_name.rpartition("/")[2]
    order = sorted(found, key=lambda k: (k[1] != "loss", k[1].rpartition("/")[2] != metric, k))[:MOST_CURVES]
    several = len({stage for stage, _ in found}) > 1
    plots = []
    for stage, name in order:
        title = "training loss" if name == "loss" else name
        caption = (f"{stage}: " if several else "") + title
        caption += ": mean and range over seeds" if any(len(runs) > 1 for runs in found[stage, name].values()) else ""
        svg = plot_lines(found[stage, name], title=caption, x_label="optimiser step", y_label=title)
        plots.append((caption, svg))
    return plots


def environment_rows(run: Run) -> list[tuple[str, str]]:
    """The run's environment, flat, bytes in GB."""
    rows = []
    for key, value in run.environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif key.endswith("_bytes") and isinstance(value, int):
            key, value = key.removesuffix("_bytes"), f"{value / 1e9:.1f} GB"
        rows.append((key.replace("_", " "), "none" if value is None else str(value)))
    return rows
