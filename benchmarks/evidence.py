"""How a claim is stated and judged here: one number, its interval, a verdict, and what could have been seen.

A script states its claims before it runs (`Claim`), turns its cells into paired differences (`Differences`), and gets a
`Finding` for each. Shapes: U units (data sets, or sets and sizes), S seeds, N test rows.

Where every row's outcome is stored the interval redraws seeds and rows (`luthier.report.intervals`), and holds for
these units. Where only scores are stored it is that of a mixed model with a random intercept for each unit
(statsmodels): the intercepts hold what other rows would have moved, and also what is particular to a unit, so that it
is the wider one. Beside it stands then the interval with units and rows as they are, over seeds alone.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
from tables import Cells, test_score

from luthier.report.intervals import interval_over_seeds, redrawn_means

POWER, ALPHA = 0.8, 0.05
Interval = tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """A published claim as one number.

    Attributes:
        text: the claim, in a sentence.
        quantity: what is measured, better when higher.
        published: the effect in that quantity; None where no figure is known for certain.
        source: where the figure stands.
        bed: the model that it is tested on; a key of `BEDS`.
        main: whether it is a main comparison of its script; others are exploratory.
    """

    text: str
    quantity: str
    published: float | None
    source: str
    bed: str
    main: bool = True


BEDS = {
    "MiniLM": "all-MiniLM-L6-v2, 22.7 M: a sentence encoder of 6 layers. Its masked-LM head was not shipped and its "
    "pretraining task was replaced by sentence similarity, so methods that steer a language model have less to steer.",
    "BERT-tiny": "the 4.4 M checkpoint of 2 layers that ships as BLEURT-tiny: a BERT that was tuned as a metric of "
    "generated text, not the plain pretrained one. Read beside MiniLM, not alone.",
    "BERT-tiny LM": "that checkpoint trained on as a masked language model of the Brown corpus, with a new head "
    "that is tied to its embeddings, by `benchmarks/masked_lm_tiny.yaml`: 6 million tokens, held-out loss 4.70. Its "
    "layers are 27 times smaller than those of the masked LM below, so that studies of a hundred runs end in hours.",
    "SmolLM2": "SmolLM2-135M-Instruct, a decoder; with a classification head where it labels text.",
    "masked LM": "all-MiniLM-L6-v2 trained on as a masked language model of the Brown corpus, with a new head tied to "
    "its embeddings, by `recipes/local/masked_lm.yaml`: 6 million tokens, held-out loss 4.06.",
    "new ModernBERT": "models of 1 to 6 layers in the form of ModernBERT, 64 wide, trained from random weights on the "
    "Brown corpus by the script itself.",
    "new Llama": "a decoder of 2 layers trained from random weights on the Brown corpus by the script itself.",
    "new multilingual ModernBERT": "models of 4 layers, 128 wide, in the form of ModernBERT, trained from random "
    "weights on 101 languages by the script itself.",
}


class Differences:
    """Paired differences of two arms, the first less the second.

    Args:
        units: unit -> (S,) differences of scores by seed, or (S, N) of outcomes by seed and row.

    Raises:
        ValueError: there is no unit, or some units have rows and some have not.
    """

    def __init__(self, units: Mapping[str, Any]) -> None:
        self.units = {name: np.asarray(found, float) for name, found in units.items() if np.size(found)}
        if not self.units:
            raise ValueError("no unit has a difference")
        if len({found.ndim for found in self.units.values()}) > 1:
            raise ValueError("some units have the outcomes of rows and some have not")

    @classmethod
    def paired(cls, arms: Mapping[str, tuple[Mapping[Any, Any], ...]]) -> Differences | None:
        """Of unit -> (seed -> score, or outcomes, of the first arm, and of the second), over common seeds."""
        units = {}
        for name, (first, second) in arms.items():
            seeds = sorted(first.keys() & second.keys())
            if seeds:
                units[name] = [np.asarray(first[s], float) - np.asarray(second[s], float) for s in seeds]
        return cls(units) if units else None

    @property
    def by_rows(self) -> bool:
        return next(iter(self.units.values())).ndim == 2

    @property
    def seeds(self) -> int:
        """The fewest seeds of a unit."""
        return min(len(found) for found in self.units.values())

    @property
    def rows(self) -> int | None:
        """Rows in all units together, where their outcomes are known."""
        return sum(found.shape[1] for found in self.units.values()) if self.by_rows else None

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Unit -> (S,) differences of scores."""
        return {name: found.mean(axis=1) if found.ndim == 2 else found for name, found in self.units.items()}

    @cached_property
    def mean(self) -> float:
        """Over units, each with the same weight."""
        return statistics.fmean(float(found.mean()) for found in self.scores.values())

    @cached_property
    def deviation(self) -> float:
        """Of seeds inside a unit, pooled; nan where no unit has two."""
        several = [found for found in self.scores.values() if len(found) > 1]
        if not several:
            return math.nan
        squares = sum(float(((found - found.mean()) ** 2).sum()) for found in several)
        return math.sqrt(squares / sum(len(found) - 1 for found in several))

    def interval(self, level: float = 1 - ALPHA) -> Interval:
        """Of the mean; of infinite width where nothing is repeated."""
        if self.by_rows:
            return interval_over_seeds(self._drawn, level)
        if len(self.units) == 1:
            return self.over_seeds(level)
        mean, error, between = self._model
        # Where units differ they are what is repeated; where they don't, every seed of every unit is.
        repeats = len(self.units) if between > 0 else sum(map(len, self.units.values()))
        return _t_interval(mean, error, repeats - 1, level)

    def over_seeds(self, level: float = 1 - ALPHA) -> Interval:
        """With these units and their rows as they are: only seeds are redrawn."""
        units, seeds = len(self.units), [len(found) for found in self.units.values()]
        error = self.deviation * math.sqrt(sum(1 / n for n in seeds)) / units
        return _t_interval(self.mean, error, sum(seeds) - units, level)

    @cached_property
    def _drawn(self) -> np.ndarray:
        """(S, B) means over units in every draw of rows, of as many seeds as the unit with the fewest has."""
        return np.mean([redrawn_means(found[: self.seeds]) for found in self.units.values()], axis=0)

    @cached_property
    def _model(self) -> tuple[float, float, float]:
        """The mean, its standard error and the variance between units, by scores alone."""
        return _mixed_model(self.scores)

    def detectable(self, seeds: int | None = None) -> float:
        """The smallest difference that this many seeds a unit see with 80 % power at a two-sided 5 %; nan if unknown.

        Seeds make chance inside units smaller, and neither that between units nor that of rows.
        """
        from statsmodels.stats.power import TTestPower

        seeds, units = seeds or self.seeds, len(self.units)
        between = 0.0 if self.by_rows or units == 1 else self._model[2]
        # As in `interval`: units are what is repeated where they differ.
        repeats = units if between > 0 else units * seeds
        if math.isnan(self.deviation) or repeats < 2:
            return math.nan
        variance = (self.deviation**2 / seeds + self._row_variance + between) / units
        effect = TTestPower().solve_power(effect_size=None, nobs=repeats, alpha=ALPHA, power=POWER)
        return float(np.asarray(effect).item()) * math.sqrt(variance * repeats)

    @cached_property
    def _row_variance(self) -> float:
        """What the mean of a unit varies by with other rows, on average over units; 0 where rows aren't known."""
        if not self.by_rows:
            return 0.0
        means = [found.mean(axis=0) for found in self.units.values()]
        return statistics.fmean(float(rows.var(ddof=1)) / len(rows) if len(rows) > 1 else 0.0 for rows in means)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.mean:+.4f} [{low:+.4f}, {high:+.4f}], {self.seeds} seeds"

    def seeds_for(self, effect: float, most: int = 1000) -> int | None:
        """Seeds a unit that see such an effect with 80 % power; None where more seeds alone can't."""
        if math.isnan(self.deviation) or effect <= 0 or not self.detectable(most) <= effect:
            return None
        low, high = 1, most
        while low < high:
            middle = (low + high) // 2
            if self.detectable(middle) <= effect:  # nan for a single value: more are needed
                high = middle
            else:
                low = middle + 1
        return low


def _t_interval(mean: float, error: float, freedom: int, level: float) -> Interval:
    from scipy.stats import t

    if freedom < 1 or math.isnan(error):
        return -math.inf, math.inf
    half = float(t.ppf(1 - (1 - level) / 2, freedom)) * error
    return mean - half, mean + half


def _mixed_model(units: Mapping[str, np.ndarray]) -> tuple[float, float, float]:
    """The intercept, its standard error and the variance between units, by restricted maximum likelihood."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    values = np.concatenate(list(units.values()))
    groups = np.repeat(np.arange(len(units)), [len(found) for found in units.values()])
    scale = float(values.std(ddof=1))
    if scale == 0 or len(values) == len(units):
        # Without repeats inside units the two variances can't be told apart: units are what is repeated.
        return float(values.mean()), scale / math.sqrt(len(values)), scale**2
    with warnings.catch_warnings():
        # It warns where the variance between units is 0, which is an answer.
        warnings.simplefilter("ignore")
        # Differences of scores are small beside its tolerances.
        fitted = MixedLM(values / scale, np.ones((len(values), 1)), groups=groups).fit(reml=True)
    between, within = float(np.asarray(fitted.cov_re)[0, 0]), float(fitted.scale)
    between = between if between > 1e-6 * within else 0.0
    return float(fitted.fe_params[0]) * scale, float(fitted.bse_fe[0]) * scale, between * scale**2


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim, and the verdict.

    Attributes:
        claim: the claim.
        differences: what was measured; None where it can't be here.
        level: of the interval that has to leave 0 out, by Holm's procedure over the script's main comparisons; 1 where
            a clearer one already failed.
        hours: of processor or wall time that its cells took.
        why: the reason where it isn't testable here.
    """

    claim: Claim
    differences: Differences | None
    level: float = 1 - ALPHA
    hours: float | None = None
    why: str = ""

    @property
    def verdict(self) -> str:
        """holds (maybe by less than half of the figure), does not hold, not told (with one seed; else how many would
        tell), or not testable here (and why)."""
        if self.differences is None:
            return f"not testable here: {self.why}"
        if self.differences.seeds < 2:
            return "not told: one seed"
        high = self.differences.interval()[1]
        published = self.claim.published
        if self.level < 1 and self.differences.interval(self.level)[0] > 0:
            return "holds" if published is None or high >= published / 2 else "holds: by less than half of the figure"
        if high < (0 if published is None else published / 2):
            return "does not hold"
        if published is None:
            return "not told"
        needed = self.differences.seeds_for(published / 2)
        if needed is None:
            return "not told: more seeds alone would not tell"
        return f"not told: {needed} seeds would tell" if needed > self.differences.seeds else "not told"

    def line(self) -> list[str]:
        """Columns of `COLUMNS`."""
        claim, found = self.claim, self.differences
        published = "no figure" if claim.published is None else f"{claim.published:+.3f} ({claim.source})"
        kind = "" if claim.main else " (exploratory)"
        if found is None:
            return [claim.text + kind, f"**{self.verdict}**", "", published, "", ""]
        low, high = found.interval()
        rows = f", {found.rows:,} rows" if found.rows else ""
        units = f"{len(found.units)} unit{'s' * (len(found.units) > 1)}"
        hours = f", {self.hours:.1f} h" if self.hours is not None else ""
        alone = "" if found.by_rows else ", over seeds alone"
        if not found.by_rows and len(found.units) > 1:
            alone = "; over seeds alone [{:+.3f}, {:+.3f}]".format(*found.over_seeds())
        return [
            f"{claim.text}{kind} *{claim.quantity}; {claim.bed}*",
            f"**{self.verdict}**",
            f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}]{alone}",
            published,
            "" if math.isnan(found.detectable()) else f"{found.detectable():.3f}",
            f"{units} x {found.seeds} seeds{rows}{hours}",
        ]


COLUMNS = ("claim", "verdict", "measured (95 %)", "published", "could be seen (80 % power)", "behind it")


def findings_of(
    measured: Sequence[tuple[Claim, Differences | None]], hours: float | None = None, why: str = ""
) -> list[Finding]:
    """The findings of a script; its main comparisons are corrected by Holm's procedure.

    Args:
        measured: claims with what was measured of them; those without anything are left out.
        hours: that the script's cells took.
        why: where given, none of the claims is testable here, for this reason.
    """
    begun = [(claim, found) for claim, found in measured if found is not None]
    if why:
        return [Finding(claim, None, hours=hours, why=why) for claim, _ in begun]
    holm = levels({n: found for n, (claim, found) in enumerate(begun) if claim.main})
    return [Finding(claim, found, holm.get(n, 1 - ALPHA), hours) for n, (claim, found) in enumerate(begun)]


def levels(found: Mapping[Any, Any]) -> dict[Any, float]:
    """Holm's step-down procedure by intervals: the level at which each of several comparisons has to leave out 0. The
    clearest one has to at 1 - 0.05 / m, and the next at 1 - 0.05 / (m - 1) if that did; behind one that did not, none
    can, at level 1.

    Args:
        found: name -> anything with `mean` and `interval(level)`.
    """
    left, given, goes_on = dict(found), {}, True
    while left:
        name = max(left, key=lambda one: left[one].mean / max(1e-12, left[one].mean - left[one].interval()[0]))
        given[name] = 1 - ALPHA / len(left) if goes_on else 1.0
        clear = left.pop(name).interval(given[name])[0] > 0
        goes_on = goes_on and clear
    return given


def compared(arms: Mapping[str, tuple[Cells, Cells]], score: str | None = None) -> Differences | None:
    """Paired differences of unit -> the cells of the first arm and of the second: by `score`, a key of a cell, where
    it is given; else by test row where all cells keep the outcomes of theirs (`test_right`), else by test score. None
    where no unit has a seed of both."""
    every = [entry for both in arms.values() for cells in both for entry in cells]
    of: Callable[[dict[str, Any]], Any] = test_score
    if score is not None:
        of = itemgetter(score)
    elif every and all("test_right" in entry for entry in every):
        of = _outcomes
    sides = {unit: tuple({e["cell"]["seed"]: of(e) for e in cells} for cells in both) for unit, both in arms.items()}
    return Differences.paired(sides)


def _outcomes(entry: Mapping[str, Any]) -> np.ndarray:
    """(N,) 1 for every test row that was right."""
    return np.array([right == "1" for right in entry["test_right"]], float)


def hours_of(cells: Cells) -> float:
    """Wall time of cells, in hours."""
    return sum(e.get("wall_seconds", 0.0) for e in cells) / 3600


def plot(finding: Finding, name: str, keep: Callable[[str, str], str]) -> str:
    """The differences of every unit and their mean with its interval; returns the picture's link.

    Args:
        keep: name, SVG -> link, as `tables.plot_file`.
    """
    from luthier.report.plots import plot_bars

    found = finding.differences
    if found is None:
        return ""
    values = {unit: [float(v) for v in scores] for unit, scores in found.scores.items()}
    pooled = "all together, 95 %"
    values[pooled] = [found.mean]
    svg = plot_bars(values, title=finding.claim.quantity, x_label="difference", intervals={pooled: found.interval()})
    return keep(f"claim-{name}", svg)
