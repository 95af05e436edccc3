"""Intervals over rows and seeds: against a few-line reference, and against a world in which the truth is known."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from luthier.evaluation.resampling import draw_counts
from luthier.report.intervals import (
    ROW_SEED,
    bounded_interval,
    crossed_interval,
    interval_over_seeds,
    redrawn_means,
    redrawn_rows,
)


def test_every_draw_redraws_the_rows_of_all_seeds_alike():
    outcomes = np.random.default_rng(0).random((3, 17))
    wanted = [[seed[drawn].mean() for drawn in redrawn_rows(17, 50)] for seed in outcomes]
    np.testing.assert_allclose(redrawn_means(outcomes, 50), wanted)


def test_draws_are_those_that_metrics_are_computed_in():
    counts = np.concatenate(list(draw_counts(23, 40, ROW_SEED)))
    np.testing.assert_array_equal([np.bincount(drawn, minlength=23) for drawn in redrawn_rows(23, 40)], counts)


def test_the_interval_is_that_of_a_plain_loop():
    outcomes = (np.random.default_rng(0).random((4, 60)) < 0.7).astype(float)
    draw, means = np.random.default_rng(7), []
    for _ in range(4000):
        seeds, rows = draw.integers(0, 4, 3), draw.integers(0, 60, 60)
        means.append(outcomes[np.ix_(seeds, rows)].mean())
    assert crossed_interval(outcomes, draws=2500) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_ends_stay_inside_the_range_of_the_metric():
    low, high = crossed_interval(np.array([[1, 1, 1, 0], [1, 1, 1, 1]]))
    assert 0 <= low < high <= 1
    low, high = crossed_interval(np.array([[1, 1, 0, 1], [-1, 0, -1, 0]]))
    assert -1 <= low < high <= 1


def test_one_row_has_no_interval():
    with pytest.raises(ValueError, match="two rows"):
        crossed_interval(np.ones((3, 1)))


def test_one_seed_redraws_rows_alone():
    right = np.array([[1.0] * 80 + [0.0] * 20])
    low, high = crossed_interval(right)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 100)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.02)


def test_seeds_that_differ_widen_the_interval():
    drawn = redrawn_means((np.random.default_rng(0).random((3, 200)) < 0.8).astype(float))
    apart = drawn + np.array([[0.2], [0.0], [-0.2]])
    width, wider = (np.diff(interval_over_seeds(one))[0] for one in (drawn, apart))
    assert wider > 1.5 * width


def right(draw, hardness, centre, seeds, seed_spread, own):
    """(S, N) of a method: a row is answered where skill, the seed's luck, the row and chance come out above 0."""
    luck = seed_spread * draw.normal(size=(seeds, 1))
    chance = own * draw.normal(size=(seeds, len(hardness)))
    return (centre + luck + hardness + chance > 0).astype(float)


def share(centre, seed_spread, row_spread, own):
    """The true accuracy over all seeds and rows."""
    return norm.cdf(centre / np.sqrt(seed_spread**2 + row_spread**2 + own**2))


@pytest.mark.parametrize(
    ("seeds", "seed_spread", "least", "most"),
    [(2, 0.05, 0.92, 1), (3, 0.1, 0.92, 1), (5, 0.1, 0.92, 1), (5, 0.4, 0.82, 0.96)],
)
def test_it_holds_the_truth_as_often_as_it_says(seeds, seed_spread, least, most):
    draw, held, held_gap, times = np.random.default_rng(seeds), 0, 0, 200
    truth = [share(centre, seed_spread, 1, 0.5) for centre in (0.8, 0.9)]
    for _ in range(times):
        hardness = draw.normal(size=200)
        one, two = (right(draw, hardness, centre, seeds, seed_spread, 0.5) for centre in (0.8, 0.9))
        low, high = crossed_interval(one, draws=250)
        held += low <= truth[0] <= high
        low, high = crossed_interval(two - one, draws=250)
        held_gap += low <= truth[1] - truth[0] <= high
    assert least <= held / times <= most
    assert least <= held_gap / times <= most


def test_redrawing_rows_alone_or_seeds_alone_would_hold_it_too_seldom():
    draw, alone, times = np.random.default_rng(0), np.zeros(3), 200
    truth = share(0.8, 0.3, 1, 0.5)
    for _ in range(times):
        outcomes = right(draw, draw.normal(size=200), 0.8, 6, 0.3, 0.5)
        drawn = redrawn_means(outcomes, 250)
        rows = np.quantile(drawn.mean(axis=0), [0.025, 0.975])
        seeds = interval_over_seeds(np.repeat(outcomes.mean(axis=1, keepdims=True), 250, axis=1))
        both = interval_over_seeds(drawn)
        alone += [low <= truth <= high for low, high in (rows, seeds, both)]
    assert max(alone[:2]) / times < 0.9 < alone[2] / times


def test_rows_that_agree_bound_a_mean_by_what_the_others_can_be():
    exact = binomtest(20, 20).proportion_ci(0.95, "exact").low
    assert bounded_interval(np.ones(50), 20) == pytest.approx((exact, 1.0))
    assert bounded_interval(np.zeros((3, 50)), 20) == pytest.approx((0.0, 1 - exact))
    assert bounded_interval(np.zeros(50), 20, (-1.0, 1.0)) == pytest.approx((exact - 1, 1 - exact))
    assert bounded_interval(np.ones(50), None) is None
    varied = np.linspace(0.5, 0.9, 50)
    assert bounded_interval(varied, 20) == interval_over_seeds(varied[None])
    assert bounded_interval(varied, None) == interval_over_seeds(varied[None])
