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
# Costs that are left to the report where a terminal is too narrow, and those that are where nothing else helps.
_SPARED_FIRST = ("on disk", "tokens/s", "peak memory")
_SPARED_LAST = ("seconds", "trained")
# Characters from which on a name is broken over lines where a terminal is too narrow for it.
_LONGEST_NAME = 20


def print_table(table: Table, console: Any) -> None:
    """Show the table below what must not be missed of a single run. Where a terminal is too narrow, the last costs are
    left to the report; a file or a pipe gets all of it."""
    from rich.text import Text

    difference = len(table.name_columns) + 2
    kept = [n for n in table.filled_columns() if n != difference]
    kept += [difference] * (difference in table.filled_columns())
    shown = _rich_table(table, kept)
    for spared in (*_SPARED_FIRST, *_SPARED_LAST):
        last = spared in _SPARED_LAST
        if last:
            _break_names(shown, console)
        width = _widths(shown, console)
        if not console.is_terminal or (width.minimum if last else width.maximum) <= console.width:
            break
        kept = [n for n in kept if table.columns[n] != spared]
        shown = _rich_table(table, kept)
    cells = _cells(table)
    for mark in marks(cells[0]) if len(cells) == 1 else ():
        console.print(Text(one_line(mark, 500), style="yellow"))
    _print_whole(shown, console)
    for note in [*table.about_intervals(), *table.notes]:
        console.print(Text(one_line(note, 500)))


def _widths(shown: Any, console: Any) -> Any:
    """The fewest and the most columns of the console that a table takes."""
    return console.measure(shown, options=console.options.update(max_width=10_000))


def _break_names(shown: Any, console: Any) -> None:
    """Let long names be broken anywhere, where a terminal is too narrow for a table with each on one line."""
    if console.is_terminal and _widths(shown, console).minimum > console.width:
        for column in shown.columns:
            column.max_width = None if column.min_width else _LONGEST_NAME


def _print_whole(shown: Any, console: Any) -> None:
    """Print a table without cutting anything off: on one line each in a file or a pipe, and wider than a terminal that
    is too narrow for its numbers."""
    _break_names(shown, console)
    width = _widths(shown, console)
    least = width.minimum if console.is_terminal else width.maximum
    if least > console.width:
        shown.width = least
    console.print(shown, crop=False)


def _add_column(shown: Any, title: str, texts: Sequence[str], *, right: bool, wraps: bool, name: bool = False) -> None:
    """A column that is no narrower than its texts, or, where it `wraps`, than a word of them: of numbers that are cut
    off something else would be left. A `name` that is long may be broken anywhere."""
    from rich.cells import cell_len
    from rich.text import Text

    words = [cell_len(word) for text in (title, *texts) for word in (text.split() if wraps else [text])]
    least = None if name else max(words, default=0)
    side: Literal["left", "right"] = "right" if right else "left"
    shown.add_column(Text(title), justify=side, no_wrap=not wraps, overflow="fold", min_width=least)


def _cells(table: Table) -> list[Any]:
    return [cell for line in table.lines for cell in line.row.cells.values()]


def _rich_table(table: Table, kept: Sequence[int]) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    names, lines = len(table.name_columns), table.cells()
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for n in kept:
        name = n < names
        wraps = name or n == names + 2 or table.columns[n] in (MARKS, COLUMN)
        right = not name and table.columns[n] != MARKS
        texts = [line[n] for line in lines]
        _add_column(shown, one_line(table.columns[n]), texts, right=right, wraps=wraps, name=name)
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
        texts = [one_line(row[n][0]) for row in rows]
        _add_column(shown, one_line(str(name)), texts, right=number, wraps=True, name=not number)
    for row in rows:
        shown.add_row(*(Text(one_line(text)) for text, _ in row[: len(columns)]))
    _print_whole(shown, console)


def print_section_table(table: SectionTable, console: Any) -> None:
    """Show the table of a section in a terminal."""
    shown = table_of(table)
    _print_rows(shown["columns"], shown["rows"], console)
