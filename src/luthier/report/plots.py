"""Plots as SVG text, drawn by matplotlib: no script, nothing from outside, readable text, colours for every eye."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Okabe and Ito's colours, which stay apart under the common kinds of colour blindness; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A7A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
Points = Sequence[tuple[float, float]]


def _draw(paint: Callable[[Any], None], title: str, size: tuple[float, float], polar: bool = False) -> str:
    """One set of axes as an SVG element that scales with the page."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": "luthier", "font.size": 10, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot(projection="polar" if polar else None)
        if not polar:
            axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("DejaVu Sans", "system-ui").replace("Bitstream Vera Sans", "system-ui")
    return svg.replace("<svg", '<svg role="img"', 1).replace(">", f"><title>{plain(title)}</title>", 1)


def plain(text: object) -> str:
    """Text that is safe inside SVG and that matplotlib does not read as mathematics."""
    cleaned = "".join(c if c.isprintable() else "�" for c in str(text))
    return cleaned.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _label(text: object) -> str:
    cleaned = "".join(c if c.isprintable() else "�" for c in str(text)).replace("$", r"\$")
    return cleaned if len(cleaned) <= 40 else cleaned[:39] + "…"


def plot_lines(
    series: Mapping[str, Sequence[Points]], *, title: str, x_label: str, y_label: str, log_x: bool = False
) -> str:
    """Lines with the mean and the range over several runs (seeds) of each.

    Args:
        series: label -> one list of (x, y) for each run.
    """

    def paint(axes: Any) -> None:
        for number, (label, runs) in enumerate(series.items()):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            shared = _by_x(runs)
            xs = sorted(shared)
            means = [sum(shared[x]) / len(shared[x]) for x in xs]
            few = max(1, len(xs) // 8)
            axes.plot(xs, means, color=colour, marker=marker, markersize=4, markevery=few, label=_label(label))
            if len(runs) > 1:
                low, high = [min(shared[x]) for x in xs], [max(shared[x]) for x in xs]
                axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        if log_x:
            axes.set_xscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(frameon=False, fontsize=9)

    return _draw(paint, title, (6.4, 3.6))


def _by_x(runs: Sequence[Points]) -> dict[float, list[float]]:
    """Values by x, at the xs that all runs share where there are any."""
    shared: dict[float, list[float]] = {}
    for run in runs:
        for x, y in run:
            shared.setdefault(x, []).append(y)
    full = {x: ys for x, ys in shared.items() if len(ys) == len(runs)}
    return full or shared


def plot_bars(values: Mapping[str, Sequence[float]], *, title: str, x_label: str) -> str:
    """One line per label: the mean of its values, their sample standard deviation, and every value as a dot.

    Marks instead of bars, because the axis does not start at zero.
    """
    labels = list(values)

    def paint(axes: Any) -> None:
        for number, label in enumerate(labels):
            found = list(values[label])
            mean = sum(found) / len(found)
            spread = math.sqrt(sum((v - mean) ** 2 for v in found) / (len(found) - 1)) if len(found) > 1 else None
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axes.errorbar(mean, number, xerr=spread, color=colour, marker=marker, markersize=9, capsize=5)
            axes.scatter(found, [number] * len(found), s=12, color="#222222", alpha=0.7, zorder=3)
        axes.set_yticks(range(len(labels)), [_label(label) for label in labels])
        axes.set_xlabel(x_label)
        every = [v for found in values.values() for v in found]
        room = (max(every) - min(every)) or abs(max(every)) or 1.0
        axes.set_xlim(min(every) - 0.15 * room, max(every) + 0.15 * room)
        axes.set_ylim(len(labels) - 0.4, -0.6)

    return _draw(paint, title, (6.4, 0.9 + 0.42 * len(labels)))


def plot_scatter(
    points: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str, y_label: str, log_x: bool
) -> str:
    """One marker for every (x, y), coloured by label."""

    def paint(axes: Any) -> None:
        for number, (label, found) in enumerate(points.items()):
            xs, ys = zip(*found, strict=True)
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            axes.scatter(xs, ys, s=42, alpha=0.85, label=_label(label), **style)
        if log_x:
            axes.set_xscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(frameon=False, fontsize=9)

    return _draw(paint, title, (6.4, 3.6))


def plot_reliability(bins: Sequence[Mapping[str, float]], *, title: str) -> str:
    """A reliability diagram: accuracy against confidence, marker area by the rows in the bin."""

    def paint(axes: Any) -> None:
        total = sum(b["count"] for b in bins) or 1
        axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
        xs, ys = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
        axes.plot(xs, ys, color=COLOURS[0], linewidth=1.2)
        axes.scatter(xs, ys, s=[20 + 300 * b["count"] / total for b in bins], color=COLOURS[0], alpha=0.7)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")

    return _draw(paint, title, (3.6, 3.6))


def plot_radar(series: Mapping[str, Mapping[str, float]], *, title: str) -> str:
    """One closed line per label over named axes, each axis from 0 to 1."""
    names = list(next(iter(series.values())))

    def paint(axes: Any) -> None:
        angles = [2 * math.pi * i / len(names) for i in range(len(names))]
        for number, (label, values) in enumerate(series.items()):
            ring = [values[name] for name in names]
            colour = COLOURS[number % len(COLOURS)]
            axes.plot([*angles, angles[0]], [*ring, ring[0]], color=colour, label=_label(label))
            axes.fill(angles, ring, color=colour, alpha=0.08)
        axes.set_xticks(angles, [_label(name) for name in names])
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.1, 1.05))

    return _draw(paint, title, (6.0, 4.2), polar=True)


def plot_heatmap(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, title: str) -> str:
    """A grid of numbers, dark where they are large."""

    def paint(axes: Any) -> None:
        axes.grid(False)
        image = axes.imshow(values, aspect="auto", cmap="cividis")
        axes.set_yticks(range(len(rows)), [_label(r) for r in rows])
        axes.set_xticks(range(len(columns)), [_label(c) for c in columns], rotation=45, ha="right")
        axes.figure.colorbar(image, ax=axes)

    return _draw(paint, title, (6.4, 1.6 + 0.3 * len(rows)))


def draw_section_plot(plot: Mapping[str, Any], title: str) -> str:
    """The plot that a stage asks for in `details.sections`.

    Args:
        plot: `{kind: bars|lines|radar|reliability|heatmap, …}` with the arguments of the function of that name.

    Raises:
        ValueError: an unknown kind.
    """
    kind, data = plot["kind"], {k: v for k, v in plot.items() if k != "kind"}
    if kind == "bars":
        values = {k: v if isinstance(v, list) else [v] for k, v in data["values"].items()}
        return plot_bars(values, title=title, x_label=str(data.get("x_label", "")))
    if kind == "lines":
        x_label, y_label = str(data.get("x_label", "")), str(data.get("y_label", ""))
        return plot_lines({k: [v] for k, v in data["series"].items()}, title=title, x_label=x_label, y_label=y_label)
    if kind == "radar":
        return plot_radar(data["series"], title=title)
    if kind == "reliability":
        return plot_reliability(data["bins"], title=title)
    if kind == "heatmap":
        return plot_heatmap(data["rows"], data["columns"], data["values"], title=title)
    raise ValueError(f"there is no plot of kind {kind!r}")
