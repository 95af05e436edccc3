"""What the pages of results share: tables, spreads, paired differences, plots as files."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from luthier.report.statistics import Difference, Row, difference

PLOTS = Path(__file__).parent / "results" / "plots"
Cells = list[dict[str, Any]]


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean ± sample standard deviation."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f} (one seed)"
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" + (f" ({len(values)} seeds)" if len(values) < 3 else "")


def grouped(cells: Cells, *keys: str) -> dict[tuple[Any, ...], Cells]:
    """Entries by the values of some keys of their cell, in the order they come."""
    found: dict[tuple[Any, ...], Cells] = {}
    for entry in cells:
        found.setdefault(tuple(entry["cell"].get(k) for k in keys), []).append(entry)
    return found


def pick(cells: Cells, **wanted: Any) -> Cells:
    return [e for e in cells if all(e["cell"].get(k) == v for k, v in wanted.items())]


def test_score(entry: dict[str, Any]) -> float:
    """The score of the test rows by the set's first metric."""
    return float(entry["test_" + entry.get("primary", "accuracy")])


def test_scores(cells: Cells) -> list[float]:
    return [test_score(e) for e in cells]


def by_seed(cells: Cells) -> dict[Any, float]:
    return {e["cell"]["seed"]: test_score(e) for e in cells}


def paired(first: dict[Any, float], second: dict[Any, float]) -> Difference | None:
    """How much higher the second is, over common seeds."""
    return difference(Row("", {}, scores=second), Row("", {}, scores=first))


def gap(first: dict[Any, float], second: dict[Any, float]) -> str:
    """Mean paired difference with a 95 % t interval over common seeds."""
    found = paired(first, second)
    if found is None:
        return ""
    if found.interval is None:
        return f"{found.mean:+.3f} (no interval)"
    return f"{found.mean:+.3f} [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]"


def median_and_range(values: list[float], digits: int = 2) -> str:
    """`2.37 (2.31 to 2.39)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def standalone(svg: str) -> str:
    """An inline SVG as a file of its own, on a white ground."""
    return svg.replace("<svg", '<svg style="background:#fff" width="640"', 1)


def plot_file(name: str, svg: str) -> str:
    """Keep a plot under this name; returns the picture's link for the page."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    (PLOTS / f"{name}.svg").write_text(standalone(svg), encoding="utf8")
    return f"![{name}](benchmarks/results/plots/{name}.svg)"
