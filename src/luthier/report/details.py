"""What the page tells about one cell: its scores, its costs, and the sections that its stages add."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from luthier.registry import SUITES
from luthier.report.ran import kept_text
from luthier.report.results import Cell, Run
from luthier.report.scores import cost_facts, marks, score_table
from luthier.report.sections import Plot, Section, SectionTable, Value, read_sections, section_of
from luthier.report.tables import Line, Table
from luthier.report.text import figure_text, number_text

logger = logging.getLogger(__name__)
MOST_SAMPLES = 50
MOST_TABLE_ROWS, MOST_FOLDED_ROWS = 200, 1000
MOST_PLOTS = 80


class PlotBudget:
    """Counts the plots that cells add, so that a page over a large grid stays one that a browser can open."""

    def __init__(self, left: int = MOST_PLOTS) -> None:
        self.left = left

    def draw(self, plot: Plot, title: str) -> dict[str, str]:
        """`svg`, or a `note` that says why there is none."""
        if not self.left:
            return {"note": f"The page draws {MOST_PLOTS} plots of single runs; this one is left out."}
        try:
            svg = plot.draw(title)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            logger.warning("a plot of section %r can't be drawn: %s", title, error)
            return {"note": f"The plot can't be drawn: {error}"}
        self.left -= 1
        return {"svg": svg}


def across_lines(table: Table, budget: PlotBudget) -> list[dict[str, Any]]:
    """What the evaluation suites tell about all lines of a comparison together, as the template shows it."""
    return [_shown(section, budget) for section in across_sections(table)]


def across_sections(table: Table) -> list[Section]:
    """What the evaluation suites tell about all lines of a comparison together."""
    baseline = next((line.row.label for line in table.lines if line.is_baseline), None)
    sections: list[Section] = []
    for name in SUITES.names() if baseline is not None else ():
        found = {line.row.label: of for line in table.lines if (of := _details_of(line, name))}
        if baseline in found and len(found) > 1:
            sections += _told_by(name, "across", found, baseline)
    return sections


def _told_by(name: str, question: str, *arguments: Any) -> list[Section]:
    """The sections that a suite answers a question with; none, and a message, where it can't read what was saved."""
    try:
        return [section_of(section) for section in getattr(SUITES.get(name), question)(*arguments)]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        logger.warning("what the suite %r left can't be shown: %s", name, error)
        return []


def _details_of(line: Line, name: str) -> list[Any]:
    stages = [stage for cell in line.row.cells.values() for stage in cell.stages.values()]
    return [stage["details"][name] for stage in stages if name in stage["details"]]


def describe_cell(cell: Cell, run: Run | None, budget: PlotBudget, problems: list[str] | None = None) -> dict[str, Any]:
    """What the template shows of one cell, which goes by the name of its run too where that is given.

    Args:
        problems: of this cell alone; default all of its own.
    """
    name = cell.name if run is None or run.name == cell.name else f"{run.name} / {cell.name}"
    score = f"{cell.primary[0]} {number_text(cell.primary[1])}" if cell.primary else ""
    return {
        "name": name,
        "cell": cell,
        "problems": cell.problems if problems is None else problems,
        "score": score,
        "kept": [text for stage in cell.stages if (text := _kept(cell, stage))],
        "scores": score_table(cell),
        "marks": marks(cell),
        "costs": cost_facts(cell),
        "stages": stages_shown(cell, budget),
    }


def _kept(cell: Cell, stage: str) -> str:
    kept = (cell.stages[stage]["details"].get("ran") or {}).get("kept")
    return f"Weights kept: {kept_text(cell, stage, kept)}." if isinstance(kept, dict) else ""


def shared_problems(cells: Sequence[Cell]) -> tuple[list[str], dict[int, list[str]]]:
    """What several cells have to tell alike, said once with their number, and what is left for each (by its id)."""
    told = Counter(problem for cell in cells for problem in dict.fromkeys(cell.problems))
    often = {problem: count for problem, count in told.items() if count > 1 and len(cells) > 1}
    shared = [f"In {count} of {len(cells)} runs: {problem}." for problem, count in often.items()]
    return shared, {id(cell): [problem for problem in cell.problems if problem not in often] for cell in cells}


def stages_shown(cell: Cell, budget: PlotBudget) -> list[tuple[str, list[dict[str, Any]]]]:
    """What each stage shows beside its scores and costs, under its heading; those that show nothing are left out."""
    headings = stage_headings(cell.stages)
    parts = {stage: _extras(cell.stages[stage]["details"], budget) for stage in cell.stages}
    return [(headings[stage], shown) for stage, shown in parts.items() if shown]


def stage_headings(folders: Iterable[str]) -> dict[str, str]:
    """`Evaluate` for the folder 01-evaluate, by folder; the folder itself where another stage has the same title."""
    titles = {folder: folder.partition("-")[2].replace("_", " ").capitalize() or folder for folder in folders}
    counts = Counter(titles.values())
    return {folder: title if counts[title] == 1 else folder for folder, title in titles.items()}


def shown_sections(sections: Sequence[Section], budget: PlotBudget) -> list[dict[str, Any]]:
    """Sections as the template shows them."""
    return [_shown(section, budget) for section in sections]


def _extras(details: dict[str, Any], budget: PlotBudget) -> list[dict[str, Any]]:
    """What the suites show of their own details, and the stage's sections."""
    sections: list[Section] = []
    for name in SUITES.names():
        if name in details:
            sections += _told_by(name, "shown", details[name])
    everything = _each_plot_once([*sections, *read_sections(details.get("sections"))])
    return _side_by_side([_shown(section, budget) for section in everything])


def _each_plot_once(sections: list[Section]) -> list[Section]:
    """Sections without those that show nothing but a plot that an earlier one shows."""
    kept: list[Section] = []
    for section in sections:
        bare = section.plot is not None and section == Section(section.title, plot=section.plot)
        if not bare or all(section.plot != one.plot for one in kept):
            kept.append(section)
    return kept


def _side_by_side(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts in their order; plots that follow one another with nothing to them but a title stand in one gallery."""
    shown: list[dict[str, Any]] = []
    for bare, group in groupby(parts, key=lambda part: part.keys() == {"title", "notes", "svg"} and not part["notes"]):
        some = list(group)
        if bare and len(some) > 1:
            shown.append({"title": "", "notes": [], "gallery": [(part["title"], part["svg"]) for part in some]})
        else:
            shown += some
    return shown


def _shown(section: Section, budget: PlotBudget) -> dict[str, Any]:
    """A section as the template shows it."""
    extra: dict[str, Any] = {"title": section.title, "notes": list(section.notes)}
    if section.text:
        extra["text"] = section.text
    if section.facts is not None:
        extra["facts"] = [(name, _value(value)[0]) for name, value in section.facts.items()]
    if section.plot is not None:
        drawn = budget.draw(section.plot, section.title)
        extra["notes"] += [drawn.pop("note")] if "note" in drawn else []
        extra |= drawn
    if section.table is not None:
        extra["table"] = table_of(section.table)
    if section.samples is not None:
        extra["samples"] = [_sample(sample) for sample in section.samples[:MOST_SAMPLES]]
        extra["left_out"] = max(0, len(section.samples) - MOST_SAMPLES)
    return extra


def table_of(table: SectionTable) -> dict[str, Any]:
    """Columns and rows, and rows that open when they are asked for; every cell as (text, whether it is a number)."""
    open_rows = len(table.rows) - table.folded
    shown, folded = table.rows[:open_rows][:MOST_TABLE_ROWS], table.rows[open_rows:][:MOST_FOLDED_ROWS]
    return {
        "columns": list(table.columns),
        "rows": [[_value(value) for value in row] for row in shown],
        "folded": [[_value(value) for value in row] for row in folded],
        "left_out": len(table.rows) - len(shown) - len(folded),
    }


def _value(value: Value) -> tuple[str, bool]:
    if value is None:
        return "", False
    if isinstance(value, float):
        return figure_text(value), True
    return str(value), isinstance(value, int) and not isinstance(value, bool)


def _sample(sample: Any) -> list[tuple[str, str]]:
    """A sample as (name, text) pairs; a bare text has no name."""
    return [("", sample)] if isinstance(sample, str) else list(sample.items())
