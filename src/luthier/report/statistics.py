"""Means over seeds, their spread, and paired differences with intervals."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from typing import Any

from luthier.report.results import Cell

LOWER_IS_BETTER = ("loss", "perplexity", "error", "seconds", "memory", "bytes", "parameters", "brier_score")


def higher_is_better(name: str) -> bool:
    """Whether more of a score or cost is better."""
    return not any(word in name.rpartition("/")[2] for word in LOWER_IS_BETTER)


@dataclass
class Row:
    """Cells that differ in their seed alone.

    Attributes:
        label: the factors in words.
        factors: without the seed.
        cells: seed -> cell.
        score_name: the score that `scores` holds.
        scores: seed -> score.
    """

    label: str
    factors: dict[str, Any]
    cells: dict[Any, Cell] = field(default_factory=dict)
    score_name: str | None = None
    scores: dict[Any, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores.values()) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds, None for fewer than two."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    def mean_cost(self, key: str) -> float | None:
        found = [c for c in (cell.cost(key) for cell in self.cells.values()) if c is not None]
        return statistics.fmean(found) if found else None


def label_of(factors: dict[str, Any]) -> str:
    """Factors in few words: the value alone, or `key value` for numbers."""
    words = []
    for key, value in factors.items():
        if isinstance(value, dict):
            rest = ", ".join(f"{k} {v}" for k, v in value.items() if k != "name")
            words.append(f"{value.get('name', '')} {rest}".strip())
        elif isinstance(value, str):
            words.append(value)
        else:
            words.append(f"{key.rpartition('.')[2]} {value}")
    return ", ".join(words)


def group_by_seed(cells: list[Cell], fallback: str) -> list[Row]:
    """One row for all cells that differ in their seed alone, in the order they come."""
    rows: dict[str, Row] = {}
    for number, cell in enumerate(cells):
        factors = {k: v for k, v in cell.factors.items() if k != "seed"}
        row = rows.setdefault(
            json.dumps(factors, sort_keys=True, default=str), Row(label_of(factors) or fallback, factors)
        )
        seed = cell.factors.get("seed", number)
        row.cells[seed] = cell
        if cell.status == "finished" and cell.primary:
            row.score_name, row.scores[seed] = cell.primary
    return list(rows.values())


@dataclass(frozen=True)
class Difference:
    """Mean paired difference of a row to the baseline over common seeds, with a 95 % t interval.

    `interval` is None for fewer than two common seeds.
    """

    mean: float
    interval: tuple[float, float] | None
    seeds: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def difference(row: Row, baseline: Row) -> Difference | None:
    """The paired difference of two rows; None without a common seed."""
    seeds = [s for s in row.scores if s in baseline.scores]
    if not seeds or row is baseline:
        return None
    gaps = [row.scores[s] - baseline.scores[s] for s in seeds]
    mean = statistics.fmean(gaps)
    if len(gaps) < 2:
        return Difference(mean, None, len(gaps))
    from scipy.stats import t

    half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return Difference(mean, (mean - half, mean + half), len(gaps))


def baseline_of(rows: list[Row], wanted: str | None) -> Row | None:
    """The row that differences are taken to: the one the recipe names, else the first with a score."""
    scored = [row for row in rows if row.scores]
    named = [row for row in scored if wanted and wanted in (row.label, *map(str, row.factors.values()))]
    return next(iter(named or scored), None)
