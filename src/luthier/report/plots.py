"""Plots as SVG text: learning curves, scores with their spread, cost against score, reliability, radar, heat map."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.report.svg import COLOURS, INK, draw, label, labels, legend_columns, style
from luthier.report.text import figure_text

Points = Sequence[tuple[float, float]]
_MOST_WRITTEN_CELLS = 150
# Of a heat map, in characters and in inches: names stand on two sides of it, and upright ones need a line each.
_LONGEST_CELL_NAME, _LETTER, _BAR, _SLOPED, _UPRIGHT = 24, 0.075, 0.7, 0.24, 0.17
_WIDEST = 9.4
# Characters of a name that stands upright beside lines or points.
_LONGEST_UPRIGHT = 26


def plot_lines(
    series: Mapping[str, Sequence[Points]], *, title: str, x_label: str, y_label: str, log_x: bool = False
) -> str:
    """Lines with the mean and the range over several runs (seeds) of each.

    Args:
        series: label -> one list of (x, y) for each run.

    Raises:
        ValueError: there is no point.
    """
    shared = {name: _by_x(runs) for name, runs in series.items()}
    _finite([y for points in shared.values() for ys in points.values() for y in ys])

    def paint(axes: Any) -> None:
        for number, (name, points) in enumerate(zip(labels(shared), shared.values(), strict=True)):
            xs = sorted(points)
            looks = style(number)
            few = max(1, len(xs) // 8)
            means = [statistics.fmean(points[x]) for x in xs]
            axes.plot(xs, means, markersize=4, markevery=(number % few, few), linewidth=1.5, label=name, **looks)
            if max(map(len, points.values())) > 1:
                low, high = [min(points[x]) for x in xs], [max(points[x]) for x in xs]
                axes.fill_between(xs, low, high, color=looks["color"], alpha=0.16, linewidth=0)
        if log_x:
            _logarithmic(axes.xaxis, [x for points in shared.values() for x in points])
        _name_axes(axes, x_label, y_label)

    ends = [
        f"{name} ends at {figure_text(statistics.fmean(points[max(points)]))}"
        for name, points in shared.items()
        if points
    ]
    return draw(
        paint, title=title, description=_told(x_label, y_label, ends), size=_below(series), legend=len(series) > 1
    )


def plot_bands(
    series: Mapping[str, Sequence[tuple[float, float, float]]], *, title: str, x_label: str, y_label: str
) -> str:
    """Lines in bands of one deviation to either side, over whole numbers.

    Args:
        series: label -> (x, mean, deviation) of every point, in the order of x.

    Raises:
        ValueError: there is no point.
    """
    _finite([number for points in series.values() for point in points for number in point])

    def paint(axes: Any) -> None:
        for number, (name, points) in enumerate(zip(labels(series), series.values(), strict=True)):
            xs, means, deviations = zip(*points, strict=True)
            looks = style(number)
            axes.plot(xs, means, markersize=4.5, linewidth=1.5, label=name, **looks)
            low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
            axes.fill_between(xs, low, high, color=looks["color"], alpha=0.16, linewidth=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _name_axes(axes, x_label, y_label)

    told = [
        f"{name} " + ", ".join(f"{figure_text(m, 3)} ± {figure_text(d, 2)}" for _, m, d in points)
        for name, points in series.items()
    ]
    return draw(paint, title=title, description=_told(x_label, y_label, told), size=_below(series), legend=True)


def _by_x(runs: Sequence[Points]) -> dict[float, list[float]]:
    """Values by x, at the xs that all runs share where there are any."""
    shared: dict[float, list[float]] = {}
    for run in runs:
        for x, y in run:
            shared.setdefault(x, []).append(y)
    full = {x: ys for x, ys in shared.items() if len(ys) == len(runs)}
    return full or shared


def plot_bars(
    values: Mapping[str, Sequence[float]],
    *,
    title: str,
    x_label: str,
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
) -> str:
    """One line per label: the mean of its values, its interval, and every value as a dot.

    Marks instead of bars, because the axis does not start at zero.

    Args:
        intervals: label -> its ends, or None where it has none; of a label that is not among them the sample standard
            deviation of several values is shown instead.

    Raises:
        ValueError: a label has no value.
    """
    means = {name: statistics.fmean(_finite(found)) for name, found in values.items()}

    def paint(axes: Any) -> None:
        for number, (name, found) in enumerate(values.items()):
            looks = style(number) | {"linestyle": "none"}
            axes.errorbar(
                means[name],
                number,
                xerr=_arms(means[name], intervals[name]) if intervals and name in intervals else _deviation(found),
                markersize=8,
                capsize=4,
                linewidth=1.5,
                **looks,
            )
            if len(found) > 1:
                axes.scatter(found, [number + 0.26] * len(found), s=10, color=INK, alpha=0.55, linewidths=0)
        axes.set_yticks(range(len(values)), labels(values))
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label(x_label))
        axes.margins(x=0.08)
        axes.set_ylim(len(values) - 0.4, -0.6)

    told = [f"{name} {figure_text(mean)}" for name, mean in means.items()]
    return draw(paint, title=title, description=_told(x_label, "", told), size=(4.7, 0.75 + 0.38 * len(values)))


def _arms(mean: float, interval: tuple[float, float] | None) -> Any:
    """How far the marks of an interval stand to the left and to the right of the mean."""
    return None if interval is None else [[max(0.0, mean - interval[0])], [max(0.0, interval[1] - mean)]]


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def plot_scatter(
    points: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str, y_label: str, log_x: bool = False
) -> str:
    """One marker for every (x, y), coloured by label.

    Raises:
        ValueError: a label has no point.
    """
    sides = {name: list(zip(*_some(found), strict=True)) for name, found in points.items()}
    centres = {name: [statistics.fmean(_finite(side)) for side in both] for name, both in sides.items()}

    def paint(axes: Any) -> None:
        for number, (name, both) in enumerate(zip(labels(points), sides.values(), strict=True)):
            looks = style(number)
            del looks["linestyle"]
            axes.scatter(*both, s=34, alpha=0.8, linewidths=0, label=name, **looks)
        if log_x:
            _logarithmic(axes.xaxis, [x for found in points.values() for x, _ in found])
        else:
            axes.margins(x=0.08)
        _name_axes(axes, x_label, y_label)

    told = [f"{name} {figure_text(x)}, {figure_text(y)}" for name, (x, y) in centres.items()]
    return draw(paint, title=title, description=_told(x_label, y_label, told), size=_below(points), legend=True)


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with ticks like 1k and 20M, at least two of them."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    low, high = min(values), max(values)
    if low <= 0:
        raise ValueError(f"a logarithmic axis has no place for {low:g}")
    axis.axes.set_xscale("log")
    pad = max((high / low) ** 0.08, 1.3)
    axis.axes.set_xlim(low / pad, high * pad)
    axis.set_major_locator(LogLocator(subs=(1,) if high / low > 100 else (1, 2, 5)))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())


def plot_reliability(bins: Sequence[Mapping[str, float]], *, title: str) -> str:
    """A reliability diagram: accuracy against confidence, marker area by the rows in the bin.

    Args:
        bins: `confidence`, `accuracy` (both 0..1) and `count` (rows) of each; empty ones are left out.

    Raises:
        ValueError: every bin is empty.
    """
    filled = [b for b in bins if b["count"]]
    total = sum(_finite([b["count"] for b in filled]))
    xs, ys = [b["confidence"] for b in filled], [b["accuracy"] for b in filled]

    def paint(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linestyle="--", linewidth=1)
        axes.plot(xs, ys, color=COLOURS[0], linewidth=1.3)
        areas = [18 + 260 * b["count"] / total for b in filled]
        axes.scatter(xs, ys, s=areas, color=COLOURS[0], alpha=0.65, linewidths=0)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_aspect("equal")
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")

    told = [f"{x:.2f}, {y:.2f} ({b['count']:.0f} rows)" for x, y, b in zip(xs, ys, filled, strict=True)]
    return draw(paint, title=title, description=_told("confidence", "accuracy", told), size=(3.6, 3.5))


def plot_radar(series: Mapping[str, Mapping[str, float]], *, title: str) -> str:
    """One closed line per label over named axes that start at 0 and end at 1, or at the largest value above it.

    Raises:
        ValueError: the labels do not all have the same axes, or there are fewer than three.
    """
    names = list(next(iter(series.values()), {}))
    if len(names) < 3 or any(set(values) != set(names) for values in series.values()):
        raise ValueError("a radar needs at least three axes, and the same ones for every label")

    def paint(axes: Any) -> None:
        angles = [2 * math.pi * i / len(names) for i in range(len(names))]
        for number, (name, values) in enumerate(zip(labels(series), series.values(), strict=True)):
            ring = [values[axis] for axis in names]
            looks = style(number)
            axes.plot([*angles, angles[0]], [*ring, ring[0]], markersize=4, linewidth=1.5, label=name, **looks)
            axes.fill(angles, ring, color=looks["color"], alpha=0.08)
        axes.set_theta_offset(math.pi / 2)
        axes.set_xticks(angles, labels(names))
        axes.set_ylim(0, max(1.0, *(v for values in series.values() for v in values.values())))
        axes.spines["polar"].set_visible(False)
        axes.tick_params(axis="y", labelsize=7.5)

    told = [
        f"{name}: " + ", ".join(f"{axis} {figure_text(values[axis], 3)}" for axis in names)
        for name, values in series.items()
    ]
    size = (4.7, 3.6 + 0.2 * len(series))
    return draw(paint, title=title, description=_told("", "", told), size=size, polar=True, legend=len(series) > 1)


def plot_heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    title: str,
    apart: Sequence[tuple[int, int]] = (),
) -> str:
    """A grid of numbers, light where they are large, each written in its place where there are few.

    Args:
        rows, columns, values: the grid.
        title: for screen readers.
        apart: cells, as (row, column) from 0, that have no colour and that the scale of colours takes no notice of.

    Raises:
        ValueError: the values do not fill the grid.
    """
    if not values or len(values) != len(rows) or any(len(line) != len(columns) for line in values):
        raise ValueError("a heat map needs one list of values for every row, and one value for every column")
    flat = _finite([v for line in values for v in line])
    blank = {(int(y), int(x)) for y, x in apart}
    coloured = [v for y, line in enumerate(values) for x, v in enumerate(line) if (y, x) not in blank] or flat
    low, high = min(coloured), max(coloured)
    painted = [[math.nan if (y, x) in blank else v for x, v in enumerate(line)] for y, line in enumerate(values)]

    left, below = labels(rows, _LONGEST_CELL_NAME), labels(columns, _LONGEST_CELL_NAME)
    bar = len(flat) > _MOST_WRITTEN_CELLS
    room = 4.7 - _LETTER * max(map(len, left)) - _BAR * bar
    tilt: dict[str, Any] = {}
    if sum(len(name) + 2 for name in below) > 40:
        tilt = {"rotation": 40, "ha": "right"} if room / len(below) > _SLOPED else {"rotation": 90}

    def paint(axes: Any) -> None:
        axes.grid(False)
        image = axes.pcolormesh(painted, cmap="cividis", edgecolors="none", vmin=low, vmax=high)
        axes.invert_yaxis()
        axes.set_yticks([n + 0.5 for n in range(len(rows))], left)
        axes.set_xticks([n + 0.5 for n in range(len(columns))], below, **tilt)
        axes.tick_params(length=0)
        if bar:
            axes.figure.colorbar(image, ax=axes).solids.set_rasterized(False)
            return
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                ink = INK if (y, x) in blank else "#000000" if value > (low + high) / 2 else "#ffffff"
                axes.text(x + 0.5, y + 0.5, figure_text(value, 3), ha="center", va="center", fontsize=8, color=ink)

    told = [f"{name}: " + ", ".join(figure_text(v, 3) for v in line) for name, line in zip(rows, values, strict=True)]
    width = min(_WIDEST, 4.7 + max(0.0, _UPRIGHT * len(below) - room))
    size = (width, (2.4 if tilt else 0.6) + 0.3 * len(rows))
    return draw(paint, title=title, description=_told("", "", told), size=size)


def _finite(values: Sequence[float]) -> Sequence[float]:
    """The values, when there are any and all can be drawn."""
    if not all(math.isfinite(v) for v in _some(values)):
        raise ValueError("a value is no finite number")
    return values


def _some(values: Sequence[Any]) -> Sequence[Any]:
    if not values:
        raise ValueError("there is nothing to draw")
    return values


def _below(series: Mapping[str, Any]) -> tuple[float, float]:
    """Room for a plot with its legend below, which one series alone does without."""
    if len(series) < 2:
        return 4.7, 2.75
    return 4.7, 2.75 + 0.19 * math.ceil(len(series) / legend_columns(labels(series)))


def _name_axes(axes: Any, x_label: str, y_label: str) -> None:
    """Names below and to the left; a long one to the left in lines that are no longer than the axis."""
    axes.set_xlabel(label(x_label))
    axes.set_ylabel("\n".join(textwrap.wrap(label(y_label), _LONGEST_UPRIGHT)))


def _told(x_label: str, y_label: str, facts: Sequence[str]) -> str:
    axes = " against ".join(part for part in (y_label, x_label) if part)
    return f"{axes}. " * bool(axes) + "; ".join(facts[:40]) + "."
