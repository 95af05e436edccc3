"""Intervals for a score that was measured with several seeds on one set of rows: both are redrawn.

Shapes: S seeds, N rows, B draws.

A score has two sources of chance: another seed would have given another model, and other rows would have been easier or
harder. A bootstrap that redraws one of them alone is too narrow by what the other adds; here each draw takes seeds and
rows anew, every seed with the same rows (the pigeonhole bootstrap of Owen, “The pigeonhole bootstrap”, Annals of
Applied Statistics 2007). Ends are percentiles of redrawn scores, so that no interval leaves the range of the metric.

Where every row comes out alike, all draws are equal and say nothing of other rows: a mean over rows has an exact
interval then (`agreeing_interval`), and any other score has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

Interval = tuple[float, float]
# The same rows are redrawn for all models, so that draws of two models can be subtracted.
ROW_SEED, SEED_SEED = 0, 1
DRAWS = 1000
_AT_ONCE = 4_000_000
# Ends no further apart than this are one number, but for rounding.
_NO_WIDTH = 1e-9


def redrawn_rows(rows: int, draws: int = DRAWS) -> Iterator[np.ndarray]:
    """For every draw the numbers of N rows, drawn with replacement; the same sequence for every model."""
    import numpy as np

    generator = np.random.default_rng(ROW_SEED)
    for _ in range(draws):
        yield generator.integers(0, rows, rows)


def redrawn_means(outcomes: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """(S, N) outcomes -> (S, B): the mean of every seed in each draw of rows."""
    import numpy as np

    outcomes = np.atleast_2d(np.asarray(outcomes, dtype=np.float64))
    rows, found, pending = outcomes.shape[1], [], []
    for drawn in redrawn_rows(rows, draws):
        pending.append(np.bincount(drawn, minlength=rows))
        if len(pending) * rows >= _AT_ONCE:
            found.append(outcomes @ np.stack(pending).T / rows)
            pending = []
    if pending:
        found.append(outcomes @ np.stack(pending).T / rows)
    return np.concatenate(found, axis=1)


def interval_over_seeds(drawn: np.ndarray, level: float = 0.95) -> Interval:
    """(S, B) scores of every seed in the same draws of rows -> the interval of their mean, seeds redrawn too.

    Of S seeds S - 1 are taken in a draw: the mean of so many has the variance of the mean of S that the sample
    variance, with its divisor S - 1, estimates (McCarthy and Snowden, “The bootstrap and finite population sampling”,
    1985). With one seed rows alone are redrawn.

    Where seeds make all the difference and rows none, no percentile interval of S seeds can be right in more than
    1 - 2^(1 - S) of all cases: 3 in 4 for three seeds.
    """
    import numpy as np

    seeds, draws = drawn.shape
    chosen = np.random.default_rng(SEED_SEED).integers(0, seeds, (max(1, seeds - 1), draws))
    means = drawn[chosen, np.arange(draws)].mean(axis=0)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def agreeing_interval(value: float, rows: int, span: Interval = (0.0, 1.0), level: float = 0.95) -> Interval:
    """The exact interval of a mean over N rows that all came out alike, where a bootstrap has nothing to redraw.

    Of all rows at least the share (tail)^(1 / N) comes out like these (Clopper and Pearson, “The use of confidence or
    fiducial limits illustrated in the case of the binomial”, Biometrika 1934, for N of N); the others may be anything
    that a row can be. For right and wrong rows this is the Clopper-Pearson interval.

    Args:
        value: what every row came out as.
        rows: N, 1 at least.
        span: the least and the most that a row can come out as: 0 and 1 for right and wrong, -1 and 1 for the
            difference of two models.
        level: the chance with which the interval holds the mean over all rows, at least.
    """
    alike = ((1 - level) / 2) ** (1 / rows)
    least, most = (alike * value + (1 - alike) * end for end in span)
    return float(least), float(most)


def bounded_interval(drawn: np.ndarray, rows: int | None, span: Interval = (0.0, 1.0)) -> Interval | None:
    """`interval_over_seeds`, which never claims to be exact: where all draws agree, the interval of N rows that agree.

    Args:
        drawn: (S, B) scores of every seed in the same draws of rows, or (B,) of one seed.
        rows: N, where the score is the mean of what rows came out as; None for any other score, which has no interval
            where all draws agree.
        span: the least and the most that a row can come out as.
    """
    import numpy as np

    return never_exact(interval_over_seeds(np.atleast_2d(drawn)), rows, span)


def never_exact(ends: Interval, rows: int | None, span: Interval = (0.0, 1.0)) -> Interval | None:
    """The ends of a bootstrap interval; where they are one, see `bounded_interval`."""
    low, high = ends
    if has_width(ends):
        return low, high
    return agreeing_interval((low + high) / 2, rows, span) if rows else None


def has_width(ends: Interval) -> bool:
    """Whether the ends of a bootstrap interval are two numbers."""
    return ends[1] - ends[0] > _NO_WIDTH


def crossed_interval(outcomes: np.ndarray, *, draws: int = DRAWS, level: float = 0.95) -> Interval:
    """The percentile interval of a mean over rows and seeds.

    Args:
        outcomes: (S, N) what every seed's model made of every row: 1 for right, or any number; for the difference of
            two methods the difference of their outcomes, seed by seed and row by row.
        draws: B.
        level: the share of draws between the ends.

    Raises:
        ValueError: there are fewer than two rows.
    """
    import numpy as np

    outcomes = np.atleast_2d(outcomes)
    if outcomes.shape[1] < 2:
        raise ValueError(f"an interval needs two rows at least, not {outcomes.shape[1]}")
    return interval_over_seeds(redrawn_means(outcomes, draws), level)
