"""Shows the results of runs in a terminal: the table of all lines, and what their evaluation adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from luthier.report.baselines import COLUMN
from luthier.report.details import across_sections, table_of
from luthier.report.marks import COLUMN as MARKS
from luthier.report.scores import marks, score_table
from luthier.report.sections import SectionTable
from luthier.report.tables import Table
from luthier.report.text import one_line

MOST_SCORES = 20
_SPARED_FIRST = ("on disk", "tokens/s", "peak memory")


def print_table(table: Table, console: Any) -> None:
    """Show the table in a terminal, below what must not be missed of a single run. Where it is too narrow, the last
    costs are left to the report."""
    from rich.text import Text

    difference = len(table.name_columns) + 2
    kept = [n for n in table.filled_columns() if n != difference]
    kept += [difference] * (difference in table.filled_columns())
    shown = _rich_table(table, kept)
    for spared in _SPARED_FIRST:
        if console.measure(shown, options=console.options.update(max_width=10_000)).maximum <= console.width:
            break
        kept = [n for n in kept if table.columns[n] != spared]
        shown = _rich_table(table, kept)
    cells = _cells(table)
    for mark in marks(cells[0]) if len(cells) == 1 else ():
        console.print(Text(one_line(mark, 500), style="yellow"))
    console.print(shown)
    for note in [*table.about_intervals(), *table.notes]:
        console.print(Text(one_line(note, 500)))


def _cells(table: Table) -> list[Any]:
    return [cell for line in table.lines for cell in line.row.cells.values()]


def _rich_table(table: Table, kept: Sequence[int]) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    names, lines = len(table.name_columns), table.cells()
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for n in kept:
        side: Literal["left", "right"] = "left" if n < names or table.columns[n] == MARKS else "right"
        wraps = n == names + 2 or table.columns[n] in (MARKS, COLUMN)
        title = one_line(table.columns[n])
        # No narrower than a word, so that none is cut off: of numbers it would be another one.
        words = [len(word) for text in (title, *(line[n] for line in lines)) for word in text.split()]
        shown.add_column(
            Text(title), justify=side, no_wrap=not wraps, min_width=max(words, default=0) if wraps else None
        )
    for cells in lines:
        shown.add_row(*(Text(cells[n]) for n in kept))
    return shown


def print_details(table: Table, console: Any) -> None:
    """What the one score of the table leaves out: every score of a single run, or the lines as the suites see them."""
    cells = _cells(table)
    if len(cells) == 1 and (scores := score_table(cells[0])) is not None and len(scores["rows"]) > 1:
        console.print()
        _print_rows(scores["columns"], scores["rows"][:MOST_SCORES], console)
        if len(scores["rows"]) > MOST_SCORES:
            console.print(f"{len(scores['rows']) - MOST_SCORES} more scores are in the report")
    for section in across_sections(table):
        if section.table is not None:
            _print_section(section.title, section.table, console)


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


def print_section_table(table: SectionTable, console: Any) -> None:
    """Show the table of a section in a terminal."""
    shown = table_of(table)
    _print_rows(shown["columns"], shown["rows"], console)
