"""Jackknife, floor and extrapolation of the Fréchet distance, over draws from Gaussians of a known distance."""

import numpy as np
import pytest

from core.metrics.frechet import frechet_distance_from_features
from core.metrics.intervals import frechet_floor, frechet_infinity, frechet_interval
from eval.parity.tolerances import STATISTICS_SIGMA


class Gaussians:
    """Two Gaussians whose covariances commute, and their Fréchet distance."""

    def __init__(self, d, shift, scale, decay=2.0):
        self.width = np.exp(-decay * np.arange(d) / d)
        self.shift, self.scale = shift * self.width, scale
        self.distance = float((self.shift**2).sum() + ((scale - 1) ** 2 * self.width**2).sum())

    def draw(self, seed, n, m):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, len(self.width))) * self.width
        return x, rng.standard_normal((m, len(self.width))) * self.width * self.scale + self.shift


DIFFERENT = Gaussians(8, 0.5, 1.3)
EQUAL = Gaussians(8, 0.0, 1.0)


def left_out(rows, n, seed, which, groups=10):
    """All rows except one group of the partition that the same key gives."""
    order = np.random.Generator(np.random.Philox(key=[seed, which])).permutation(n)
    return [np.delete(rows, group, axis=0) for group in np.array_split(order, groups)]


@pytest.mark.parametrize(("n", "m", "d"), [(60, 45, 8), (20, 45, 50), (60, 25, 50), (50, 60, 50)])
def test_standard_error_is_that_of_groups_left_out_one_by_one(n, m, d):
    """For n > d the moments are updated; for n = d the covariance without a group is singular."""
    x, y = Gaussians(d, 0.5, 1.3).draw(0, n, m)
    found = frechet_interval(x + 100, y + 100, seed=3)
    assert found.value == pytest.approx(frechet_distance_from_features(x, y), rel=1e-9)
    first = [frechet_distance_from_features(part, y) for part in left_out(x, n, 3, 0)]
    second = [frechet_distance_from_features(x, part) for part in left_out(y, m, 3, 1)]
    for values, error in ((first, found.standard_error1), (second, found.standard_error2)):
        assert error == pytest.approx(np.sqrt(9 / 10 * ((values - np.mean(values)) ** 2).sum()), rel=1e-6)
    assert found.standard_error == pytest.approx(np.hypot(found.standard_error1, found.standard_error2))


CASES = {"n > d": (DIFFERENT, 300, 200, 1.2), "n < d": (Gaussians(40, 0.5, 1.3), 30, 25, 1.45)}


@pytest.mark.parametrize("level", [0.95, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_the_interval_holds_the_expected_distance_as_often_as_it_says(case, level):
    gaussians, n, m, most = CASES[case]
    found = np.array([frechet_interval(*gaussians.draw(seed, n, m), level=level) for seed in range(300)])
    expected, spread = found[:, 0].mean(), found[:, 0].std(ddof=1)
    covered = ((found[:, 1] <= expected) & (expected <= found[:, 2])).mean()
    chance = STATISTICS_SIGMA * np.sqrt(level * (1 - level) / 300)
    assert level - chance < covered
    assert covered < level + chance or case == "n < d"  # there the standard error is on the safe side
    assert 0.85 < np.sqrt((found[:, 3] ** 2).mean()) / spread < most


def test_where_the_distributions_are_equal_the_standard_error_is_on_the_safe_side():
    found = np.array([frechet_interval(*EQUAL.draw(seed, 200, 200)) for seed in range(300)])
    ratio = np.sqrt((found[:, 3] ** 2).mean()) / found[:, 0].std(ddof=1)
    assert 1.0 < ratio < 1.6
    assert (found[:, 1] >= 0).all()


def test_the_bootstrap_adds_the_excess_again_and_the_jackknife_does_not():
    """The distances stated in the module's docstring: 0.297 and 0.588."""
    gaussians = Gaussians(32, 0.0, 1.0, decay=0.0)
    x, y = gaussians.draw(0, 2000, 2000)
    rng = np.random.default_rng(0)
    draws = [
        frechet_distance_from_features(x[rng.integers(2000, size=2000)], y[rng.integers(2000, size=2000)])
        for _ in range(40)
    ]
    found = frechet_interval(x, y)
    assert found.value == pytest.approx(0.297, abs=0.06) and np.mean(draws) == pytest.approx(0.588, abs=0.1)
    assert min(draws) > found.high > found.value > found.low > 0


def test_the_parts_are_those_of_the_two_sets():
    x, y = DIFFERENT.draw(1, 10_000, 100)  # the large set hardly errs
    found = frechet_interval(x, y)
    assert found.standard_error1 < 0.25 * found.standard_error2 < found.standard_error
    swapped = frechet_interval(y, x)
    assert swapped.standard_error2 < 0.25 * swapped.standard_error1
    same = frechet_interval(x[:50] * 0, x[:50] * 0)
    assert same[:4] == (0, 0, 0, 0)


def test_floor():
    x, _ = EQUAL.draw(2, 900, 1)
    floor = frechet_floor(x, 300, draws=4, seed=5)
    assert floor.values.shape == (4,) and floor.mean == pytest.approx(floor.values.mean())
    assert floor.std == pytest.approx(np.std(floor.values, ddof=1))
    order = np.random.Generator(np.random.Philox(key=[5, 2])).permutation(900)
    assert floor.values[2] == frechet_distance_from_features(x[order[:300]], x[order[300:600]])
    # Expected distance of two sets of n from one Gaussian with spectrum s, to first order in 1 / n:
    # of the means 2 tr C / n, of the covariances sum_ij s_i s_j / (s_i + s_j) / n.
    s = EQUAL.width**2
    excess = (2 * s.sum() + (np.outer(s, s) / np.add.outer(s, s)).sum()) / 300
    values = [frechet_floor(EQUAL.draw(seed, 600, 1)[0], 300, draws=2).values[0] for seed in range(100)]
    error = np.std(values) / 10
    assert abs(np.mean(values) - excess) < STATISTICS_SIGMA * error + 0.02 * excess


@pytest.mark.parametrize("cut_both", [False, True])
@pytest.mark.parametrize("gaussians", [DIFFERENT, Gaussians(8, 0.1, 1.05)], ids=["far", "near"])
def test_infinity_is_the_true_distance_and_its_standard_error_the_spread(gaussians, cut_both):
    n = 400 if cut_both else 20_000
    found = [frechet_infinity(*gaussians.draw(seed, n, 400), 100, 15, cut_both, seed=seed) for seed in range(60)]
    values, errors = np.array([limit[:2] for limit in found]).T
    spread = values.std(ddof=1)
    assert abs(values.mean() - gaussians.distance) < STATISTICS_SIGMA * spread / np.sqrt(60)
    assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.35)  # 60 draws know a spread to 9 %
    assert (np.abs(values - gaussians.distance) < 2.1 * errors).mean() > 0.95 - STATISTICS_SIGMA * 0.028
    # The residuals of the line, whose points share rows, promise far too much.
    lines = [np.polyfit(1 / limit.sizes, limit.distances, 1, cov=True)[1][1, 1] for limit in found]
    assert np.sqrt(np.mean(lines)) < 0.75 * spread


def test_infinity_is_the_intercept_of_a_line_through_evenly_spaced_sizes():
    x, y = DIFFERENT.draw(7, 500, 330)
    whole, both = frechet_infinity(x, y, 50, 15), frechet_infinity(x, y, 50, 15, cut_both=True)
    for limit in (whole, both):
        assert limit.sizes.tolist() == [50 + 20 * i for i in range(15)]
        slope, intercept = np.polyfit(1 / limit.sizes, limit.distances, 1)
        assert slope > 0 and limit.value == pytest.approx(intercept, rel=1e-9)
        assert limit.value < limit.distances[-1]
    assert whole.distances[-1] == pytest.approx(frechet_distance_from_features(x, y), rel=1e-12)
    assert both.distances[-1] != whole.distances[-1]
    assert frechet_infinity(x, y, 50, 15).value == whole.value != frechet_infinity(x, y, 50, 15, seed=1).value
    # Fewer rows than features, where covariances are singular on both sides.
    wide = Gaussians(60, 0.5, 1.3).draw(8, 40, 40)
    limit = frechet_infinity(*wide, 10, 4)
    assert limit.distances[-1] == pytest.approx(frechet_distance_from_features(*wide), rel=1e-6)


@pytest.mark.parametrize("cut_both", [False, True])
def test_the_standard_error_of_the_intercept_counts_each_rows_weight_in_it(cut_both):
    x, y = DIFFERENT.draw(10, 90, 70)
    limit, jackknife = frechet_infinity(x, y, 20, 4, cut_both, seed=6), frechet_interval(x, y, seed=6)
    weights = np.full(90, 0.0 if cut_both else 1 / 90), np.zeros(70)
    for i, n in enumerate(limit.sizes):
        share = np.polyfit(1 / limit.sizes, np.eye(4)[i], 1)[1]  # of this point in the intercept
        rng = np.random.Generator(np.random.Philox(key=[6, 2 + i]))
        weights[1][rng.permutation(70)[:n]] += share / n
        if cut_both:
            weights[0][rng.permutation(90)[:n]] += share / n
    errors = (jackknife.standard_error1, jackknife.standard_error2)
    variance = sum(e**2 * len(w) * (w**2).sum() for e, w in zip(errors, weights, strict=True))
    assert limit.standard_error**2 == pytest.approx(variance, rel=1e-9)
    assert all(w.sum() == pytest.approx(1) for w in weights)


def test_refuses_what_it_cannot_measure():
    x, y = DIFFERENT.draw(9, 40, 30)
    for function, arguments, words in (
        (frechet_interval, (x[:3], y), "features1: 3 rows: must be at least 4"),
        (frechet_interval, (x, y[:, :3]), "features2: shape"),
        (frechet_interval, (x, y, 1), "groups = 1: must be from 2 to 15"),
        (frechet_interval, (x, y, 16), "groups = 16: must be from 2 to 15"),
        (frechet_interval, (x, y, 10, 1.0), "level = 1.0: must be above 0 and below 1"),
        (frechet_interval, (x, y, 10, 0.9, -1), "seed = -1: must be in"),
        (frechet_floor, (x, 21), "real: 40 rows: must be at least 42"),
        (frechet_floor, (x, 1), "n = 1: must be at least 2"),
        (frechet_floor, (x, 21, 5, 0, 20), "real: 40 rows: must be at least 41"),
        (frechet_floor, (x, 5, 1), "draws = 1: must be at least 2"),
        (frechet_infinity, (x, y, 20, 2), "points = 2: must be at least 3"),
        (frechet_infinity, (x, y, 20, 15), "smallest = 20: must be from 2 to 16, to leave 15 sizes up to 30"),
        (frechet_infinity, (np.full((40, 8), np.nan), y, 10), "features1: row 0"),
    ):
        with pytest.raises(ValueError, match=words):
            function(*arguments)
