"""Shows the results of runs in a terminal: the table of all lines, and what their evaluation adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from luthier.report.baselines import COLUMN, baselines_of, marks_of, score_title
from luthier.report.details import across_sections, interval_text, table_of
from luthier.report.sections import SectionTable
from luthier.report.tables import Table
from luthier.report.text import number_text, one_line

MOST_SCORES = 20
_SPARED_FIRST = ("on disk", "tokens/s")


def print_table(table: Table, console: Any) -> None:
    """Show the table in a terminal; where it is too narrow the last costs are left to the report."""
    from rich.text import Text

    names = len(table.name_columns)
    difference = names + 1
    kept = [n for n in table.filled_columns() if n != difference]
    kept += [difference] * (difference in table.filled_columns())
    shown = _rich_table(table, kept)
    for spared in _SPARED_FIRST:
        if console.measure(shown, options=console.options.update(max_width=10_000)).maximum <= console.width:
            break
        kept = [n for n in kept if table.columns[n] != spared]
        shown = _rich_table(table, kept)
    console.print(shown)
    if table.seeds > 1:
        text = f"mean ± sample standard deviation over {table.seeds} seeds; differences paired by seed"
        console.print(Text(text))
    for note in table.notes:
        console.print(Text(one_line(note, 500)))


def _rich_table(table: Table, kept: Sequence[int]) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    names = len(table.name_columns)
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for n in kept:
        side: Literal["left", "right"] = "left" if n < names else "right"
        shown.add_column(Text(one_line(table.columns[n])), justify=side, no_wrap=n != names + 1)
    for cells in table.cells():
        shown.add_row(*(Text(cells[n]) for n in kept))
    return shown


def print_details(table: Table, console: Any) -> None:
    """What the one score of the table leaves out: every score of a single run, or the lines as the suites see them."""
    cells = [cell for line in table.lines for cell in line.row.cells.values()]
    if len(cells) == 1:
        scored = [metrics for metrics in cells[0].stages.values() if metrics["scores"]]
        for metrics in scored[-1:]:
            _print_scores(metrics, console)
    for section in across_sections(table):
        if section.table is not None:
            _print_section(section.title, section.table, console)


def _print_scores(metrics: Mapping[str, Any], console: Any) -> None:
    from rich.text import Text

    scores, intervals = metrics["scores"], metrics["intervals"]
    baselines = baselines_of(metrics)
    rows = [
        [
            (score_title(metrics, name), False),
            (number_text(score), True),
            (interval_text(intervals.get(name)), True),
            (baselines[name].text if name in baselines else "", True),
        ]
        for name, score in scores.items()
    ]
    filled = [n for n in range(4) if n < 2 or any(row[n][0] for row in rows)]
    columns = ["score", "value", "95 %", COLUMN]
    if len(scores) > 1:
        console.print()
        shown = [[row[n] for n in filled] for row in rows[:MOST_SCORES]]
        _print_rows([columns[n] for n in filled], shown, console)
    for mark in marks_of(metrics):
        console.print(Text(one_line(mark[:1].upper() + mark[1:] + ".", 500), style="yellow"))
    if len(rows) > MOST_SCORES:
        console.print(f"{len(rows) - MOST_SCORES} more scores are in the report")


def _print_section(title: str, table: SectionTable, console: Any) -> None:
    from rich.text import Text

    shown = table_of(table)
    console.print()
    console.print(Text(one_line(title, 200), style="bold"))
    _print_rows(shown["columns"], shown["rows"], console)


def _print_rows(columns: Sequence[str], rows: Sequence[Sequence[tuple[str, bool]]], console: Any) -> None:
    """A table of texts, each with whether it is a number: those stand to the right."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for n, name in enumerate(columns):
        number = all(row[n][1] or not row[n][0] for row in rows)
        shown.add_column(Text(one_line(str(name))), justify="right" if number else "left")
    for row in rows:
        shown.add_row(*(Text(one_line(text)) for text, _ in row[: len(columns)]))
    console.print(shown)
