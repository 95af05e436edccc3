"""One self-contained HTML page about runs: no script, nothing loaded from outside, all text escaped."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.metric_names import higher_is_better
from luthier.report.charts import comparison_charts, run_charts
from luthier.report.choice import recommend
from luthier.report.details import (
    PlotBudget,
    across_lines,
    describe_cell,
    shared_problems,
    shown_sections,
    stages_shown,
    table_of,
)
from luthier.report.findings import headline, run_headline, states
from luthier.report.ran import Ran, what_ran
from luthier.report.results import Cell, Run, read_runs
from luthier.report.scores import cost_facts, marks, score_notes, score_table
from luthier.report.sections import Section
from luthier.report.svg import COLOURS, DARK_COLOURS
from luthier.report.tables import comparison_table
from luthier.report.text import is_hidden, mark, runs_from_right, visible
from luthier.storage.done import OF_A_RUN

PAGE = "report.html"
_KEPT = "\n\t"
_TOGETHER = re.compile(r"\[[^\]]*\]|± \S+")


def write_report(folders: list[Path], output: Path | None = None) -> Path:
    """Write the page about one or more run directories.

    Args:
        folders: run directories.
        output: the file; default `report.html` in the run directory, and of several in the folder that they lie in, so
            that no run's own page is replaced.

    Returns:
        The file that was written, in one step: an older one stays whole until then.

    Raises:
        WorkspaceError: a folder is no run, or the file can't be written, or is one of a run's that is no page.
    """
    from luthier.storage.files import write_text
    from luthier.storage.output_places import check_place_of

    runs = read_runs([Path(f) for f in folders])
    place = Path(output) if output is not None else _own_place([run.folder for run in runs])
    check_place_of(place, *_read_of([run.folder for run in runs], place))
    write_text(place, render(runs))
    return place


def _read_of(folders: Sequence[Path], place: Path) -> list[Path]:
    """The file at a place, if it lies in a run directory and is no page."""
    real = Path(os.path.realpath(place))
    inside = any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
    return [place] if inside and real.suffix != Path(PAGE).suffix else []


def _own_place(folders: Sequence[Path]) -> Path:
    """Where a page about these run directories goes: into the only one, or beside the first of several, above every
    folder that is a run itself."""
    if len(folders) == 1:
        return folders[0] / PAGE
    here, place = Path.cwd(), Path(os.path.abspath(folders[0])).parent
    while all((place / name).exists() for name in OF_A_RUN) and place != place.parent:
        place = place.parent
    return (place.relative_to(here) if place.is_relative_to(here) else place) / PAGE


def write_sections(place: Path, title: str, lead: str, sections: Sequence[Section]) -> Path:
    """Write a page of sections that belong to no run, in one step.

    Args:
        place: the file.
        title, lead: what stands above them.

    Raises:
        WorkspaceError: the file can't be written.
    """
    from luthier.storage.files import write_text

    template = _environment().get_template("sections.html.j2")
    colours = list(zip(COLOURS, DARK_COLOURS, strict=True))
    parts = shown_sections(sections, PlotBudget())
    write_text(place, template.render(title=title, lead=lead, parts=parts, colours=colours))
    return place


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("luthier.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = _visible
    environment.filters["marked"] = marked
    environment.filters |= {"tight": tight, "breakable": breakable}
    return environment


def render(runs: list[Run]) -> str:
    """The page as text."""
    alone = runs[0].cells[0] if len(runs) == 1 and len(runs[0].cells) == 1 and not runs[0].compare else None
    budget = PlotBudget()
    shown = _alone(runs[0], alone, budget) if alone is not None else _compared(runs, budget)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=" and ".join(run.name for run in runs),
            alone=alone is not None,
            states=states(runs),
            runs=runs,
            environments=[(run.name, environment_rows(run)) for run in runs],
            colours=list(zip(COLOURS, DARK_COLOURS, strict=True)),
            **shown,
        )
    )


def _alone(run: Run, cell: Cell, budget: PlotBudget) -> dict[str, Any]:
    """What the page of one run shows."""
    return {
        "headline": run_headline(cell),
        "problems": cell.problems,
        "error": cell.error,
        "ran": _shown_ran(what_ran({run.name: [cell]}, run.folder)),
        "scores": score_table(cell),
        "notes": score_notes([cell]),
        "marks": marks(cell),
        "costs": cost_facts(cell),
        "plots": run_charts(cell),
        "stages": stages_shown(cell, budget),
    }


def _compared(runs: list[Run], budget: PlotBudget) -> dict[str, Any]:
    """What the page of a comparison shows."""
    table = comparison_table(runs)
    choices = [(run, choice) for run in runs if (choice := recommend(run)) is not None]
    lines = {line.row.label: list(line.row.cells.values()) for line in table.lines}
    several = len(runs) > 1
    everything = [cell for run in runs for cell in run.cells]
    shared, own = shared_problems(everything)
    return {
        "headline": next((choice.lead for _, choice in choices if not several), headline(table)),
        "choices": [(run.name, choice) for run, choice in choices],
        "ran": _shown_ran(what_ran(lines, runs[0].folder)),
        "table": table,
        "columns": table.filled_columns(),
        "names": len(table.name_columns),
        "better": "Higher" if higher_is_better(table.score_name) else "Lower",
        "notes": [*table.about_intervals(), *table.notes, *score_notes(everything, table.split), *shared],
        "plots": comparison_charts(table),
        "across": across_lines(table, budget),
        "cells": [
            describe_cell(cell, run if several else None, budget, own[id(cell)]) for run in runs for cell in run.cells
        ],
    }


def _shown_ran(found: list[Ran]) -> list[dict[str, Any]]:
    return [
        {"stage": ran.stage, "facts": list(ran.facts.items()), "data": ran.data and table_of(ran.data)} for ran in found
    ]


def _visible(value: Any) -> Any:
    """Plain text without hidden characters; everything else as it is."""
    return visible(value, keep=_KEPT) if isinstance(value, str) and not hasattr(value, "__html__") else value


def marked(text: str) -> Any:
    """Text with every hidden character as a mark that stands out, so that text which looks like a mark differs.
    What runs from right to left is set apart, so that what stands beside it keeps its place."""
    from markupsafe import Markup, escape

    pieces = (
        Markup('<span class="mark">{}</span>').format(mark(c)) if is_hidden(c) and c not in _KEPT else escape(c)
        for c in text
    )
    shown = escape(text) if text.isprintable() else Markup("").join(pieces)
    return _isolated(shown, text)


def _isolated(shown: Any, text: str) -> Any:
    from markupsafe import Markup

    return Markup("<bdi>{}</bdi>").format(shown) if runs_from_right(text) else shown


def tight(text: str) -> str:
    """Text whose intervals and deviations stay on one line when a cell is narrow."""
    return _TOGETHER.sub(lambda found: found[0].replace(" ", "\u00a0"), text)


def breakable(text: str) -> Any:
    """A column's head that may go on after a slash or an underscore, where a line is short."""
    from markupsafe import Markup, escape

    return _isolated(Markup(re.sub(r"([/_])", r"\1<wbr>", str(escape(visible(text))))), text)


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
