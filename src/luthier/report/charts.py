"""The charts of a page: those of one run, and those that set the lines of a comparison side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.metric_names import higher_is_better
from luthier.report.plots import plot_bars, plot_lines, plot_scatter
from luthier.report.results import Cell
from luthier.report.statistics import label_of
from luthier.report.tables import Line, Table

MOST_SERIES = 10
_COSTS = (("trainable_parameters", "trained parameters"), ("seconds", "seconds"))
Charts = list[tuple[str, str]]


def run_charts(cell: Cell) -> Charts:
    """(caption, SVG) of one run: for every stage that trained its losses, and the score that chose its weights."""
    charts = []
    several = sum(len(points) > 1 for curves in cell.curves.values() for points in [curves.get("loss", [])]) > 1
    for stage, curves in cell.curves.items():
        where = f"{stage}: " if several else ""
        losses = {"training": curves.get("loss", []), "validation": curves.get("validation/loss", [])}
        found: dict[str, Any] = {name: [points] for name, points in losses.items() if len(points) > 1}
        if found:
            named = "training and validation loss" if len(found) > 1 else f"{next(iter(found))} loss"
            svg = plot_lines(found, title=f"{where}{named}", x_label="optimiser step", y_label="loss")
            charts.append((f"{where}{named}", svg))
        score = _score_of(cell, stage)
        if score is not None and len(curves.get(score, [])) > 1:
            caption = f"{where}{score} while training"
            svg = plot_lines({score: [curves[score]]}, title=caption, x_label="optimiser step", y_label=score)
            charts.append((caption, svg))
    return charts


def _score_of(cell: Cell, stage: str) -> str | None:
    """The validation score that a stage's weights are judged by; None where that is its loss."""
    main = cell.stages.get(stage, {}).get("primary")
    if main is None:
        names = [name for name in cell.curves[stage] if name.startswith("validation/")]
        main = next((name for name in names if name != "validation/loss"), None)
    return None if main == "validation/loss" else main


def comparison_charts(table: Table) -> Charts:
    """(caption, SVG) of what several cells have in common: scores, learning curves, and score against one cost."""
    alike = [line for line in table.lines if line.row.score_name in (table.score_name, None)]
    lines, note = _best(alike, table.score_name)
    names = _names(table)
    scored = {names[id(line.row)]: list(line.row.scores.values()) for line in lines if line.row.scores}
    plots = []
    if len(scored) > 1:
        intervals = {names[id(line.row)]: line.row.interval for line in lines if line.row.scores and table.by_rows}
        without = ", where there is one" if any(one is None for one in intervals.values()) else ""
        spread = f"95 % interval{without}" if table.by_rows else "deviation"
        each = f"mean, {spread}, and every seed below it" if table.seeds > 1 else "one seed each"
        caption = f"{table.score_name}: {each}"
        svg = plot_bars(scored, title=caption, x_label=table.score_name, intervals=intervals)
        plots.append((caption + note, svg))
    plots += [(caption + note, svg) for caption, svg in _curve_plots(lines, names, table.score_name)]
    for key, name in _COSTS:
        points = _cost_points(lines, names, key)
        if len(points) > 1 and len({cost for line in points.values() for cost, _ in line}) > 1:
            log = key == "trainable_parameters"
            trained = all(line.row.cells[seed].trained for line in lines for seed in line.row.scores)
            told = f"training {name}" if trained and not log else name
            title = f"{table.score_name} against {told}"
            svg = plot_scatter(points, title=title, log_x=log, x_label=told, y_label=table.score_name)
            plots.append((title + note, svg))
            break
    return plots


def _best(lines: list[Line], score_name: str) -> tuple[list[Line], str]:
    """As many lines as the eye can tell apart, in the table's order, and a note where some are left out. Those with
    fewer seeds than others come last."""
    if len(lines) <= MOST_SERIES:
        return lines, ""
    sign = 1 if higher_is_better(score_name) else -1
    scored = [line for line in lines if line.row.mean is not None]
    chosen = sorted(scored, key=lambda line: (-line.row.n, -sign * (line.row.mean or 0.0)))[:MOST_SERIES]
    kept = [line for line in lines if line.is_baseline or line in chosen]
    return kept, f" (the best {MOST_SERIES} of {len(lines)}, and the baseline)"


def _names(table: Table) -> dict[int, str]:
    """What a chart calls each row, by its id: as its label, without the factors that all rows share."""
    rows = [line.row for line in table.lines]
    texts = {id(row): {key: label_of({key: value}) for key, value in row.factors.items()} for row in rows}
    shared = set.intersection(*(set(one.items()) for one in texts.values())) if len(rows) > 1 else set()
    names = {}
    for line in table.lines:
        own = ", ".join(text for key, text in texts[id(line.row)].items() if (key, text) not in shared)
        of = line.names[0] if len({one.names[0] for one in table.lines}) > 1 and table.name_columns[0] == "run" else ""
        names[id(line.row)] = ": ".join(part for part in (of, own) if part)
    alike = len(set(names.values())) < len(names) or not all(names.values())
    return {id(row): row.label for row in rows} if alike else names


def _cost_points(lines: list[Line], names: Mapping[int, str], key: str) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for seed, score in line.row.scores.items():
            cost = line.row.cells[seed].cost(key)
            if cost and cost > 0:
                points.setdefault(names[id(line.row)], []).append((cost, score))
    return points


def _curve_plots(lines: list[Line], names: Mapping[int, str], score_name: str) -> Charts:
    """Training loss, and the validation score by the metric that the table shows, over steps."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for line in lines:
        cells = list(line.row.cells.values())
        # Curves are drawn as far as all seeds came: one that failed early would end those of the others.
        for cell in [cell for cell in cells if cell.status == "finished"] or cells:
            for stage, curves in cell.curves.items():
                for name, points in curves.items():
                    if len(points) > 1 and (name == "loss" or name.startswith("validation/")):
                        found.setdefault((stage, name), {}).setdefault(names[id(line.row)], []).append(points)
    metric = score_name.rpartition("/")[2]
    order = sorted(
        (k for k in found if k[1] == "loss" or k[1].rpartition("/")[2] == metric), key=lambda k: k[1] != "loss"
    )
    several = len({stage for stage, _ in found}) > 1
    plots = []
    for stage, name in order:
        title = "training loss" if name == "loss" else name
        caption = (f"{stage}: " if several else "") + title
        caption += ": mean and range over seeds" if any(len(runs) > 1 for runs in found[stage, name].values()) else ""
        svg = plot_lines(found[stage, name], title=caption, x_label="optimiser step", y_label=title)
        plots.append((caption, svg))
    return plots
