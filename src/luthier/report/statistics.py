"""Means over seeds, their spread, and paired differences with intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.metric_names import range_of
from luthier.report.intervals import Interval, bounded_interval, has_width, interval_over_seeds
from luthier.report.results import Cell

if TYPE_CHECKING:
    import numpy as np

_NO_SPREAD = 1e-12


@dataclass
class Row:
    """Cells that are repeats of each other: they differ in their seed alone, or in factors that were averaged over.

    Attributes:
        label: the factors in words.
        factors: those that set the row apart.
        cells: repeat (the seed, as a rule) -> cell.
        score_name: the score that `scores` holds.
        scores: repeat -> score, of the finished cells.
        drawn: repeat -> (B,) the score in every draw of rows, where the cell tells.
        alike: repeat -> how many rows bound the score where they all came out alike, where it is a mean over rows.
        rows: repeat -> fingerprint of the rows that were scored, where the cell tells.
        tokens: repeat -> how many tokens the score is the mean over, where it is one and the cell tells.
    """

    label: str
    factors: dict[str, Any]
    cells: dict[Any, Cell] = field(default_factory=dict)
    score_name: str | None = None
    scores: dict[Any, float] = field(default_factory=dict)
    drawn: dict[Any, np.ndarray] = field(default_factory=dict, repr=False)
    alike: dict[Any, int] = field(default_factory=dict)
    rows: dict[Any, str] = field(default_factory=dict)
    tokens: dict[Any, int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores.values()) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (divisor n - 1), None for fewer than two scores."""
        return statistics.stdev(self.scores.values()) if self.n > 1 else None

    @property
    def by_rows(self) -> bool:
        """Whether rows can be redrawn for every one of its scores."""
        return bool(self.scores) and all(seed in self.drawn for seed in self.scores)

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the mean over other rows and other seeds; None where the rows' outcomes are not known, or
        all draws of what is no mean over rows agree."""
        if not self.by_rows:
            return None
        return bounded_interval(_stacked([self.drawn[seed] for seed in self.scores]), self.rows_alike(self.scores))

    @property
    def exact(self) -> bool:
        """Whether its interval is the exact one of rows that all came out alike."""
        return self.by_rows and not has_width(interval_over_seeds(_stacked([self.drawn[s] for s in self.scores])))

    def rows_alike(self, seeds: Iterable[Any]) -> int | None:
        """How many rows bound the mean over these seeds where all came out alike; None where one does not tell."""
        told = [self.alike.get(seed) for seed in seeds]
        return min((one for one in told if one is not None), default=None) if None not in told else None

    def mean_cost(self, key: str) -> float | None:
        found = [c for c in (cell.cost(key) for cell in self.cells.values()) if c is not None]
        return statistics.fmean(found) if found else None


def value_text(value: Any, *, exact: bool = False) -> str:
    """A factor's value in few words: `lora`, or `lora, rank 8` for a method with settings.

    Args:
        exact: write all digits of numbers, so that no two values have one text; else four that count.
    """
    if isinstance(value, dict):
        rest = ", ".join(f"{k} {value_text(v, exact=exact)}" for k, v in value.items() if k != "name")
        return ", ".join(part for part in (str(value.get("name", "")), rest) if part)
    if isinstance(value, float) and not exact:
        return f"{value:.4g}"
    return "default" if value is None else str(value)


def label_of(factors: dict[str, Any]) -> str:
    """Factors in few words, by which a row is named: a text alone, `key value` for numbers."""
    alone = (str, dict)
    return ", ".join(
        ("" if isinstance(value, alone) else f"{key.rpartition('.')[2]} ") + value_text(value, exact=True)
        for key, value in factors.items()
    )


def summarise(
    cells: Sequence[Cell],
    by: Sequence[str] | None = None,
    fallback: str = "run",
    score: Callable[[Cell], tuple[str, float] | None] = lambda cell: cell.primary,
) -> list[Row]:
    """One row for all cells with equal factors, in the order they come.

    Args:
        cells: of one run.
        by: the factors that set rows apart; None takes all but the seed.
        fallback: label of a row without factors.
        score: name and value of a finished cell's score; default the one that a table shows first.
    """
    rows: dict[str, Row] = {}
    for cell in cells:
        factors = {k: v for k, v in cell.factors.items() if (k in by if by is not None else k != "seed")}
        row = rows.setdefault(_text(factors), Row(label_of(factors) or fallback, factors))
        repeat = _repeat(cell, factors)
        row.cells[repeat] = cell
        found = score(cell) if cell.status == "finished" else None
        if found is not None:
            row.score_name = row.score_name or found[0]
            if found[0] == row.score_name:
                row.scores[repeat] = found[1]
                _add_rows(row, repeat, cell)
    return list(rows.values())


def _add_rows(row: Row, repeat: Any, cell: Cell) -> None:
    assert row.score_name is not None
    drawn, rows = cell.drawn(row.score_name), cell.scored_rows(row.score_name.partition("/")[0])
    if drawn is not None:
        row.drawn[repeat] = drawn
    if (alike := cell.rows_alike(row.score_name)) is not None:
        row.alike[repeat] = alike
    if rows is not None:
        row.rows[repeat] = rows
    if (tokens := cell.scored_tokens(row.score_name)) is not None:
        row.tokens[repeat] = tokens


def _stacked(drawn: Sequence[np.ndarray]) -> np.ndarray:
    """(S, B), with as many draws as all have: the first ones of each are of the same rows."""
    import numpy as np

    least = min(map(len, drawn))
    return np.stack([one[:least] for one in drawn])


def _repeat(cell: Cell, factors: dict[str, Any]) -> Any:
    """What a cell is paired by: its seed, and the factors that do not set its row apart."""
    rest = {k: v for k, v in cell.factors.items() if k not in factors and k != "seed"}
    if not rest and isinstance(cell.seed, str | int | float | None):
        return cell.seed
    return _text({"seed": cell.seed, **rest})


def _text(factors: dict[str, Any]) -> str:
    return json.dumps(factors, sort_keys=True, default=str)


@dataclass(frozen=True)
class Difference:
    """Mean paired difference of a row to another over common seeds, with a 95 % interval.

    Attributes:
        mean: of the differences.
        interval: over other seeds and other rows (`luthier.report.intervals`), or over seeds alone: Student's t, which
            is None for fewer than two pairs. None, too, where all differences are equal, since no spread says nothing
            of what another seed would give, unless rows that all came out alike bound it.
        seeds: how many pairs.
        by_rows: whether the interval counts in that other rows would have been other ones.
        exact: whether it is the exact one of rows whose differences all came out alike.
    """

    mean: float
    interval: Interval | None
    seeds: int
    by_rows: bool = False
    exact: bool = False

    @property
    def decided(self) -> bool:
        """Whether two seeds or more were run, and the interval leaves zero out."""
        return self.seeds > 1 and self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def difference(row: Row, baseline: Row, *, by_rows: bool = True) -> Difference | None:
    """The paired difference of two rows; None for a row and itself, other scores, no seed in common, or a seed that was
    scored on other rows or other tokens.

    Args:
        row, baseline: what is compared.
        by_rows: whether rows are redrawn too where both tell what became of each; else the interval is over seeds.
    """
    seeds = [s for s in row.scores if s in baseline.scores]
    if not seeds or row is baseline or row.score_name != baseline.score_name or not comparable(row, baseline):
        return None
    gaps = [row.scores[s] - baseline.scores[s] for s in seeds]
    mean = statistics.fmean(gaps)
    if by_rows and all(s in row.drawn and s in baseline.drawn for s in seeds):
        drawn = _stacked([row.drawn[s] for s in seeds] + [baseline.drawn[s] for s in seeds])
        gap, alike = drawn[: len(seeds)] - drawn[len(seeds) :], row.rows_alike(seeds)
        span = _range_of_differences(row, baseline)
        exact = not has_width(interval_over_seeds(gap))
        return Difference(mean, bounded_interval(gap, alike, span), len(gaps), True, exact)
    if len(gaps) < 2 or statistics.stdev(gaps) < _NO_SPREAD:
        return Difference(mean, None, len(gaps))
    half = half_interval(gaps)
    least, most = _range_of_differences(row, baseline)
    return Difference(mean, (max(least, mean - half), min(most, mean + half)), len(gaps))


def comparable(row: Row, baseline: Row) -> bool:
    """Whether two rows were scored on the same rows and tokens, as far as their cells tell."""
    return not on_other_rows(row, baseline) and not on_other_tokens(row, baseline)


def on_other_rows(row: Row, baseline: Row) -> bool:
    """Whether a seed of both was scored on other rows; without a seed in common, whether no seed of one was scored on
    the rows of a seed of the other."""
    return _differ(row, baseline, row.rows, baseline.rows)


def on_other_tokens(row: Row, baseline: Row) -> bool:
    """The same of the number of tokens that a score is the mean over, which tells one tokenizer from another."""
    return _differ(row, baseline, row.tokens, baseline.tokens)


def _differ(row: Row, baseline: Row, told: Mapping[Any, object], of_baseline: Mapping[Any, object]) -> bool:
    if not any(seed in baseline.scores for seed in row.scores):
        return bool(told and of_baseline) and set(told.values()).isdisjoint(of_baseline.values())
    return any(told[s] != of_baseline[s] for s in told if s in of_baseline)


def with_all_seeds(rows: Sequence[Row]) -> list[Row]:
    """The rows with as many scores as the fullest: the mean of fewer seeds may be high by the choice of them."""
    most = max((row.n for row in rows), default=0)
    return [row for row in rows if row.n == most]


def _range_of_differences(row: Row, baseline: Row) -> Interval:
    """What a difference of two scores can be."""
    low, high = range_of(row.score_name or "")
    return (low - high, high - low)


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of two or more values, Student's t with `n - 1` degrees."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def paired_differences(rows: Sequence[Row], baseline: Row | None) -> list[Difference | None]:
    """The difference of every row to the baseline, in their order, all with one kind of interval. See `difference`."""
    by_rows = all(row.by_rows for row in rows if row.scores)
    return [difference(row, baseline, by_rows=by_rows) if baseline is not None else None for row in rows]


def baseline_of(rows: Sequence[Row], wanted: str | None) -> Row | None:
    """The row that differences are taken to: the one the recipe names, else the first with a score."""
    scored = [row for row in rows if row.scores]
    named = [row for row in scored if wanted and wanted in names_of(row.label, row.factors)]
    return next(iter(named or scored), None)


def names_of(label: str, factors: Mapping[str, Any]) -> set[str]:
    """Everything that a recipe may call a row: its label, and the values and names among its factors."""
    values = list(factors.values())
    named = {str(v.get("name")) for v in values if isinstance(v, dict)}
    written = {"null" if v is None else str(v).lower() for v in values if v is None or isinstance(v, bool)}
    return {label, *map(str, values), *map(value_text, values), *named, *written}
