"""Ranks, coverage and spread of draws whose distribution is known, and the intervals of means and distances."""

import numpy as np
import pytest
import scipy.stats

from core.metrics.calibration import coverage, rank_shares, spread_ratio, uniform_test
from core.metrics.resampling import distance_interval, mean_intervals


def posterior(n=400, k=7, p=30, scale=1.0, shift=0.0, seed=0):
    """Truth and draws from one Gaussian whose pixels are correlated, the draws scaled and shifted."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, k + 1, 1))
    x = 0.8 * common + 0.6 * rng.standard_normal((n, k + 1, p))
    return x[:, 0], scale * x[:, 1:] + shift


def test_ranks_are_counts_of_draws_below_and_ties_are_shared():
    truth = np.array([[0.5, 0.0, 1.0]])
    draws = np.array([[[0.1, 0.0, 0.3], [0.9, 0.0, 1.0]]])
    assert rank_shares(truth, draws)[0] == pytest.approx([1 / 9, 1 / 3 + 1 / 9 + 1 / 6, 1 / 9 + 1 / 6])
    assert rank_shares(truth[:, :1], draws[:, :, :1])[0] == pytest.approx([0, 1, 0])


def test_coverage_is_the_share_of_truths_between_draws():
    truth, draws = posterior(50, 7, 20)
    found = coverage(rank_shares(truth, draws))
    ordered = np.sort(draws, axis=1)
    assert found.nominal == pytest.approx([2 / 8, 4 / 8, 6 / 8])
    for level, j in enumerate((3, 2, 1)):
        inside = (truth > ordered[:, j - 1]) & (truth < ordered[:, 7 - j])
        assert found.each[:, level] == pytest.approx(inside.mean(axis=1))
    assert coverage(rank_shares(*posterior(9, 8, 3))).nominal == pytest.approx([1 / 9, 3 / 9, 5 / 9, 7 / 9])


@pytest.mark.parametrize("p", [1, 30])
def test_the_test_keeps_its_level_and_finds_draws_that_are_too_narrow_or_shifted(p):
    """With correlated pixels too, where a test that took pixels as independent would always refuse."""
    true = [uniform_test(rank_shares(*posterior(p=p, seed=seed))) for seed in range(60)]
    assert scipy.stats.kstest(true, "uniform").pvalue > 0.01
    assert uniform_test(rank_shares(*posterior(p=p, scale=0.6))) < 1e-6
    assert uniform_test(rank_shares(*posterior(p=p, shift=0.5))) < 1e-6


def test_too_few_images_and_ranks_that_never_differ_have_no_test():
    assert uniform_test(rank_shares(*posterior(n=39))) is None
    assert uniform_test(rank_shares(*posterior(n=39, p=1))) is None
    assert uniform_test(np.tile([0.5, 0.25, 0.25], (100, 1))) is None


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_spread_is_the_error_where_the_draws_are_the_posterior_s(scale):
    truth, draws = posterior(4000, scale=scale)
    spread, error = spread_ratio(truth, draws)
    expected = scale * np.sqrt((1 + 1 / 7) / (1 + scale**2 / 7))
    assert np.sqrt(spread.mean() / error.mean()) == pytest.approx(expected, abs=0.02)


def test_intervals_of_means_hold_the_mean_and_leave_nan_out():
    rng = np.random.default_rng(1)
    x = rng.gamma(2.0, size=(300, 100, 2))
    x[:, 0, 1] = np.nan
    mean, low, high = mean_intervals(x[0])
    assert mean == pytest.approx(np.nanmean(x[0], axis=0)) and (low < mean).all() and (mean < high).all()
    held = [(low[0] <= 2) & (high[0] >= 2) for _, low, high in (mean_intervals(part[:, :1], 400) for part in x)]
    assert np.mean(held) == pytest.approx(0.94, abs=0.04)
    assert np.isnan(mean_intervals(np.full((3, 1), np.nan))[0])


def test_the_interval_of_a_distance_is_as_wide_as_the_distance_varies():
    def mean_of(x):
        return distance_interval(lambda rows: float(x[rows].mean()), len(x))

    x = 5 + np.random.default_rng(2).standard_normal((300, 100))
    found = [mean_of(part) for part in x]
    assert np.mean([one.low <= 5 <= one.high for one in found]) == pytest.approx(0.95, abs=0.04)
    with pytest.raises(ValueError, match="n = 19: must be at least 20"):
        mean_of(x[0, :19])
