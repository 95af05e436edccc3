"""The comparison table: for the terminal, for Markdown and CSV, and as data."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from luthier.report.baselines import COLUMN, title_of, trivial_mean, trivial_text
from luthier.report.marks import COLUMN as MARKS
from luthier.report.marks import marks_legend, marks_text
from luthier.report.results import Run
from luthier.report.statistics import (
    Difference,
    Row,
    baseline_of,
    names_of,
    on_other_rows,
    on_other_tokens,
    paired_differences,
    summarise,
    value_text,
)
from luthier.report.text import interval_text, mean_text, one_line

COSTS = {
    "trainable_parameters": "trained",
    "seconds": "seconds",
    "peak_memory_bytes": "peak memory",
    "tokens_per_second": "tokens/s",
    "bytes_on_disk": "on disk",
}
SPLITS = ("train", "validation", "test")
OTHER_ROWS = "other rows"
OTHER_TOKENS = "other tokens"
# Differences that are no larger than this are 0, but for rounding.
_NOTHING = 1e-12
_MOST_PLACES = 6
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass
class Line:
    """One line of the table: a row of cells, its difference to the baseline, and whether it is the baseline.

    `names` holds a text for each of the table's `name_columns`, and `exact_names` the same with all digits of numbers;
    `on_other_rows` tells that it was scored on other rows than the baseline, and `on_other_tokens` that its score is
    the mean over other tokens, so that no difference is taken; `marks` are what a reader must not miss, in few words,
    where there are several lines or seeds.
    """

    row: Row
    difference: Difference | None
    is_baseline: bool
    names: list[str]
    exact_names: list[str]
    on_other_rows: bool = False
    on_other_tokens: bool = False
    marks: str = ""


@dataclass
class Table:
    """All lines, and the score that they show.

    Attributes:
        score_name: of the baseline, or of the first line that has a score.
        lines: in the order of the grid.
        seeds: the most cells that a line has.
        name_columns: headings of the columns that tell the lines apart: one a factor, or `run`.
        notes: what a reader has to know of the lines, in words.
        by_rows: whether rows can be redrawn for every line, so that all intervals are over rows and seeds.
    """

    score_name: str
    lines: list[Line]
    seeds: int
    name_columns: list[str]
    notes: list[str] = field(default_factory=list)
    by_rows: bool = False

    @property
    def columns(self) -> list[str]:
        return [*self.name_columns, self.score_name, "95 %", "difference [95 %]", *COSTS.values(), COLUMN, MARKS]

    @property
    def split(self) -> str:
        """The split that the score is of, empty where its name tells none."""
        first = self.score_name.partition("/")[0]
        return first if first in SPLITS else ""

    def about_intervals(self) -> list[str]:
        """What spreads and intervals mean, in words; nothing where the table has none."""
        rows = f"{self.split} rows" if self.split else "rows"
        several = self.seeds > 1
        told = [f"Mean ± sample standard deviation over {self.seeds} seeds, fewer where told."] if several else []
        if self.by_rows:
            redrawn = f"the {rows} and the seeds" if several else f"the {rows}; another seed may differ more"
            exact = [one.exact for line in self.lines for one in (line.row, line.difference) if one and one.interval]
            if not all(exact) or not exact:
                told.append(f"95 % intervals are percentiles of a bootstrap that redraws {redrawn}.")
            if any(exact):
                which = "The 95 % intervals are" if all(exact) else "Where all rows came out alike, they are"
                told.append(f"{which} the exact binomial ones of so many rows that came out alike.")
            if len(self.lines) > 1:
                told.append("Differences are taken by seed and row.")
        elif any(line.difference and line.difference.interval for line in self.lines):
            told.append(
                "Differences are paired by seed, with 95 % t intervals over the seeds, cut off at what it can be. "
                f"They speak of other seeds on the same {rows}, not of other rows."
            )
        if len(self.lines) > 2 and any(line.difference and line.difference.interval for line in self.lines):
            told.append("Each stands for one comparison: among many lines some stray by chance.")
        return told

    def cells(self) -> list[list[str]]:
        """The text of every cell, hidden characters made visible."""
        return [
            [
                *map(one_line, line.names),
                score_text(line.row, self.score_name),
                interval_text(line.row.interval) if self.by_rows else "",
                OTHER_ROWS
                if line.on_other_rows
                else OTHER_TOKENS
                if line.on_other_tokens
                else "baseline"
                if line.is_baseline
                else difference_text(line.difference),
                *(cost_text(key, line.row.mean_cost(key)) for key in COSTS),
                trivial_text(line.row),
                line.marks,
            ]
            for line in self.lines
        ]

    def filled_columns(self) -> list[int]:
        """Positions of the columns that any line has a text in; the names and the score always count."""
        cells, always = self.cells(), len(self.name_columns) + 1
        return [n for n in range(len(self.columns)) if n < always or any(line[n] for line in cells)]


def comparison_table(runs: Sequence[Run]) -> Table:
    """One line for every set of cells that differ in their seed alone, over all runs."""
    titles = _unlike([run.name if len({r.name for r in runs}) == len(runs) else str(run.folder) for run in runs])
    pairs = [(title, row) for title, run in zip(titles, runs, strict=True) for row in summarise(run.cells, None, title)]
    rows = [row for _, row in pairs]
    keys = list(dict.fromkeys(key for row in rows for key in row.factors))
    with_run = len(runs) > 1 or not keys
    if len(runs) > 1:
        for title, row in pairs:
            row.label = row.label if row.label == title else f"{title}: {row.label}"
    for row, label in zip(rows, _unlike([row.label for row in rows]), strict=True):
        row.label = label
    wanted = next((run.baseline for run in runs if run.baseline), None)
    baseline = baseline_of(rows, wanted) if len(rows) > 1 else None
    several = sum(len(row.cells) for row in rows) > 1
    exact = {key: [_factor_text(row, key, exact=True) for row in rows] for key in keys}
    shown = {key: _rounded(rows, key, exact[key]) for key in keys}
    lines = [
        Line(
            row,
            gap,
            row is baseline,
            [title] * with_run + [shown[key][number] for key in keys],
            [title] * with_run + [exact[key][number] for key in keys],
            baseline is not None and row is not baseline and on_other_rows(row, baseline),
            baseline is not None and row is not baseline and on_other_tokens(row, baseline),
            marks_text(row) if several else "",
        )
        for number, ((title, row), gap) in enumerate(zip(pairs, paired_differences(rows, baseline), strict=True))
    ]
    name = (baseline.score_name if baseline else rows[0].score_name if rows else None) or "score"
    columns = ["run"] * with_run + _short_names(keys)
    by_rows = any(row.scores for row in rows) and all(row.by_rows for row in rows if row.scores)
    most = max((len(row.cells) for row in rows), default=0)
    return Table(name, lines, most, columns, _notes(rows, wanted, baseline, lines), by_rows)


def _notes(rows: Sequence[Row], wanted: str | None, baseline: Row | None, lines: Sequence[Line]) -> list[str]:
    notes = []
    if others := [line.row.label for line in lines if line.on_other_rows]:
        assert baseline is not None
        notes.append(
            f"Scored on other rows than {baseline.label}: {', '.join(others)}. No difference is taken between scores "
            "on different rows; score all on the same ones to compare them."
        )
    if others := [line.row.label for line in lines if line.on_other_tokens and not line.on_other_rows]:
        assert baseline is not None
        notes.append(
            f"Scored on another number of tokens than {baseline.label}: {', '.join(others)}. No difference is taken "
            "between means over different tokens, as those of two tokenizers are."
        )
    names = list(dict.fromkeys(row.score_name for row in rows if row.score_name))
    if len(names) > 1:
        notes.append(f"Lines show different scores ({', '.join(names)}); only lines with the same score are compared.")
    if wanted and baseline and wanted not in names_of(baseline.label, baseline.factors):
        notes.append(f"The recipe's baseline {wanted} has no score; {baseline.label} stands in for it.")
    if names and (title := title_of(list(rows), names[0])) != names[0]:
        notes.append(f"{title}.")
    if len(rows) > 1 or any(line.marks for line in lines):
        notes += [legend] if (legend := marks_legend(rows)) else []
    return notes


def _factor_text(row: Row, key: str, *, exact: bool) -> str:
    return value_text(row.factors[key], exact=exact) if key in row.factors else ""


def _rounded(rows: Sequence[Row], key: str, exact: list[str]) -> list[str]:
    """The texts of a factor with four digits that count, or the exact ones where two values would be alike."""
    texts = [_factor_text(row, key, exact=False) for row in rows]
    return texts if len(set(texts)) == len(set(exact)) else exact


def _short_names(keys: Sequence[str]) -> list[str]:
    """The last part of every dotted key, or the whole key where two would be alike."""
    short = [key.rpartition(".")[2] for key in keys]
    return [name if short.count(name) == 1 else key for name, key in zip(short, keys, strict=True)]


def _unlike(labels: Sequence[str]) -> list[str]:
    """Labels with a number behind those that were there before, which no other has."""
    found: list[str] = []
    for label in labels:
        numbered = (f"{label} ({number})" for number in itertools.count(2) if f"{label} ({number})" not in labels)
        found.append(label if label not in found else next(one for one in numbered if one not in found))
    return found


def score_text(row: Row, score_name: str) -> str:
    """Mean ± sample standard deviation over the seeds, or why there is none."""
    if row.mean is None:
        states = sorted({cell.status for cell in row.cells.values()})
        return ", ".join(states) if states != ["finished"] else "no score"
    text = mean_text(row.mean, row.deviation)
    if row.score_name != score_name:
        text = f"{one_line(row.score_name)} {text}"
    return text if row.n == len(row.cells) else f"{text} ({row.n} of {len(row.cells)})"


def difference_text(found: Difference | None) -> str:
    """A difference with its interval: `+0.031 [+0.010, +0.052]`, with two digits that count in the end nearest to zero.

    From ten millions on, and where all is below 0.0001, with an exponent.
    """
    if found is None:
        return ""
    ends = found.interval or (found.mean,)
    largest = max(map(abs, (found.mean, *ends)))
    nearest = min((abs(end) for end in ends if abs(end) > _NOTHING), default=1.0)
    places = min(max(3, 1 - math.floor(math.log10(nearest))), _MOST_PLACES)
    form = "+.3e" if largest >= 1e7 or _NOTHING < largest < 1e-4 else f"+.{places}f"
    interval = f" [{', '.join(f'{end:{form}}' for end in ends)}]" if found.interval else ""
    return f"{found.mean:{form}}{interval}"


def cost_text(key: str, value: float | None) -> str:
    """A cost with its unit; bytes in decimal units."""
    if value is None:
        return ""
    if "bytes" in key:
        if value >= 1e9:
            return f"{value / 1e9:,.2f} GB"
        return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"
    return f"{value:,.1f}" if key == "seconds" else f"{value:,.0f}"


def to_markdown(table: Table) -> str:
    """The table as Markdown: numbers to the right, nothing in it read as markup."""
    texts = [*table.name_columns, MARKS]
    rule = ["---" if name in texts else "--:" for name in table.columns]
    written = [list(map(_markdown, line)) for line in (table.columns, *table.cells())]
    return "\n".join("| " + " | ".join(line) + " |" for line in (written[0], rule, *written[1:])) + "\n"


def _markdown(text: str) -> str:
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = "".join(f"\\{c}" if c in "\\|`*~" else c for c in text).replace("](", "]\\(")
    # Inside a word an underscore is no markup.
    return re.sub(r"(?<!\w)_+|_+(?!\w)", lambda found: "\\_" * len(found[0]), text)


def to_csv(table: Table) -> str:
    """The table as CSV with plain, exact numbers: the same as `to_json` but for each seed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ["difference_low", "difference_high"]
    writer.writerow(
        [
            *table.name_columns,
            "score",
            "mean",
            "deviation",
            "n",
            "difference",
            *ends,
            *COSTS,
            "trivial_baseline",
            "marks",
        ]
    )
    for line, data in zip(table.lines, to_json(table), strict=True):
        numbers = [data[key] for key in ("mean", "deviation", "n", "difference")]
        interval = data["interval"] or (None, None)
        costs = [data[key] for key in (*COSTS, "trivial_baseline")]
        costs.append(_spreadsheet(line.marks))
        writer.writerow(
            [*map(_spreadsheet, line.exact_names), _spreadsheet(data["score"]), *numbers, *interval, *costs]
        )
    return out.getvalue()


def _spreadsheet(text: str) -> str:
    """Text that a spreadsheet does not take for a formula; numbers stay numbers."""
    with suppress(ValueError):
        float(text)
        return text
    return f"'{text}" if text.startswith(_FORMULA) else text


def to_json(table: Table) -> list[dict[str, Any]]:
    """The table as data: one mapping a line, with every seed's score and the number `n` of them."""
    return [
        {
            "label": line.row.label,
            "factors": line.row.factors,
            "score": line.row.score_name or table.score_name,
            "mean": line.row.mean,
            "deviation": line.row.deviation,
            "n": line.row.n,
            "seeds": {str(k): v for k, v in line.row.scores.items()},
            "baseline": line.is_baseline,
            "difference": line.difference.mean if line.difference else None,
            "interval": line.difference.interval if line.difference else None,
            "score_interval": line.row.interval,
            "trivial_baseline": trivial_mean(line.row),
            "marks": line.marks,
            **{key: line.row.mean_cost(key) for key in COSTS},
        }
        for line in table.lines
    ]
