"""The comparison table: for the terminal, for Markdown and as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.report.results import Run
from luthier.report.statistics import Difference, Row, baseline_of, difference, group_by_seed

COSTS = {
    "trainable_parameters": "trained",
    "seconds": "seconds",
    "peak_memory_bytes": "peak memory",
    "tokens_per_second": "tokens/s",
    "bytes_on_disk": "on disk",
}


@dataclass
class Line:
    """One line of the table: a row of cells, its difference to the baseline, and whether it is the baseline."""

    row: Row
    difference: Difference | None
    is_baseline: bool


@dataclass
class Table:
    """All lines, and the name of the score they show."""

    score_name: str
    lines: list[Line]
    seeds: int

    @property
    def columns(self) -> list[str]:
        return ["", self.score_name, "difference (95 %)", *COSTS.values()]

    def cells(self) -> list[list[str]]:
        """The text of every cell."""
        return [
            [
                line.row.label,
                score_text(line.row),
                "baseline" if line.is_baseline else difference_text(line.difference),
                *(cost_text(key, line.row.mean_cost(key)) for key in COSTS),
            ]
            for line in self.lines
        ]


def comparison_table(runs: list[Run]) -> Table:
    """One line for every set of cells that differ in their seed alone, over all runs."""
    rows = [row for run in runs for row in group_by_seed(run.cells, run.name)]
    if len(runs) > 1:
        names = [run.name for run in runs for _ in group_by_seed(run.cells, run.name)]
        for row, run_name in zip(rows, names, strict=True):
            row.label = row.label if row.label == run_name else f"{run_name}: {row.label}"
    baseline = baseline_of(rows, next((run.baseline for run in runs if run.baseline), None))
    lines = [Line(row, difference(row, baseline) if baseline else None, row is baseline) for row in rows]
    name = next((row.score_name for row in rows if row.score_name), None)
    return Table(name or "score", lines, max((len(row.cells) for row in rows), default=0))


def score_text(row: Row) -> str:
    """Mean ± sample standard deviation over the seeds, or why there is none."""
    if row.mean is None:
        states = sorted({cell.status for cell in row.cells.values()})
        return ", ".join(states) if states != ["finished"] else "no score"
    text = f"{row.mean:.4f}" if row.deviation is None else f"{row.mean:.4f} ± {row.deviation:.4f}"
    missing = len(row.cells) - len(row.scores)
    return f"{text} ({missing} of {len(row.cells)} seeds missing)" if missing else text


def difference_text(found: Difference | None) -> str:
    if found is None:
        return ""
    if found.interval is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.3f} [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]"


def cost_text(key: str, value: float | None) -> str:
    """A cost with its unit."""
    if value is None:
        return ""
    if "bytes" in key:
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    return f"{value:,.1f}" if key == "seconds" else f"{value:,.0f}"


def print_table(table: Table, console: Any) -> None:
    """Show the table in a terminal, without the last two costs, which the report has."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    order = (0, 1, 3, 4, 5, 2)
    for number in order:
        shown.add_column(table.columns[number], justify="left" if number == 0 else "right", no_wrap=number != 2)
    for cells in table.cells():
        shown.add_row(*(Text(cells[number]) for number in order))
    console.print(shown)
    if table.seeds > 1:
        console.print(f"mean ± sample standard deviation over {table.seeds} seeds; differences paired by seed")


def to_markdown(table: Table) -> str:
    """The table as Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.cells()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def to_json(table: Table) -> list[dict[str, Any]]:
    """The table as data: one mapping a line, with every seed's score."""
    return [
        {
            "label": line.row.label,
            "factors": line.row.factors,
            "score": table.score_name,
            "mean": line.row.mean,
            "deviation": line.row.deviation,
            "seeds": {str(k): v for k, v in line.row.scores.items()},
            "baseline": line.is_baseline,
            "difference": line.difference.mean if line.difference else None,
            "interval": line.difference.interval if line.difference else None,
            **{key: line.row.mean_cost(key) for key in COSTS},
        }
        for line in table.lines
    ]
