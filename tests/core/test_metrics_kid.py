"""KID against exact fractions, its population value for Gaussians, and its own spread over repeated draws."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from core.metrics import mmd
from core.metrics.kid import cubic_kernel, kid
from eval.parity.tolerances import STATISTICS_SIGMA


def fractions_kid(x, y):
    """KID by its definition, in exact fractions."""
    d = Fraction(len(x[0]))

    def k(a, b):
        return (sum(Fraction(int(p)) * int(q) for p, q in zip(a, b, strict=True)) / d + 1) ** 3

    within = [sum(k(a, b) for a, b in itertools.permutations(z, 2)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return within[0] + within[1] - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def population_kid(mean1, cov1, mean2, cov2):
    """KID of two Gaussians: E (x.y / d + 1)^3 expands into products of the moments of order 1, 2 and 3."""

    def moments(mean, cov):
        third = np.einsum("i,j,k->ijk", mean, mean, mean)
        for order in ("i,jk->ijk", "j,ik->ijk", "k,ij->ijk"):
            third += np.einsum(order, mean, cov)
        return mean, cov + np.outer(mean, mean), third

    first, second, d = moments(mean1, cov1), moments(mean2, cov2), len(mean1)

    def expected(a, b):
        return sum(c * (p * q).sum() / d**n for n, c, p, q in zip((1, 2, 3), (3, 3, 1), a, b, strict=True))

    return expected(first, first) + expected(second, second) - 2 * expected(first, second)


GAUSSIANS = (
    np.array([0.5, -0.2, 0.1, 0.9]),
    np.array([[1.0, 0.3, 0, 0], [0.3, 0.8, 0.1, 0], [0, 0.1, 0.5, 0], [0, 0, 0, 0.3]]),
    np.array([0.6, 0.1, 0.0, 0.8]),
    np.diag([0.8, 1.2, 0.4, 0.4]),
)


def draw(seed, m, n, gaussians=GAUSSIANS):
    rng = np.random.default_rng(seed)
    mean1, cov1, mean2, cov2 = gaussians
    return rng.multivariate_normal(mean1, cov1, m), rng.multivariate_normal(mean2, cov2, n)


def test_equals_exact_fractions():
    x, y = np.random.default_rng(0).integers(-3, 4, (9, 3)), np.random.default_rng(1).integers(-2, 5, (7, 3))
    assert kid(x, y).value == pytest.approx(float(fractions_kid(x, y)), rel=1e-13)
    assert kid(y, x).value == pytest.approx(kid(x, y).value, rel=1e-13)


EQUAL = (np.full(32, 0.4), 0.1 * np.eye(32), np.full(32, 0.4), 0.1 * np.eye(32))


@pytest.mark.parametrize("gaussians", [GAUSSIANS, EQUAL], ids=["different", "equal"])
def test_is_unbiased_and_its_standard_error_is_its_spread(gaussians):
    expected = population_kid(*gaussians)
    assert expected == pytest.approx(0, abs=1e-14) if gaussians is EQUAL else expected > 0.1
    found = np.array([kid(*draw(seed, 60, 40, gaussians)) for seed in range(500)])
    spread = found[:, 0].std(ddof=1)
    assert abs(found[:, 0].mean() - expected) < STATISTICS_SIGMA * spread / np.sqrt(len(found))
    # The spread of 500 draws is known to some 4 %; the plain jackknife is 41 % above it where the two are equal.
    assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(spread, rel=0.2)


def test_standard_error_equals_the_jackknife_less_what_it_counts_twice():
    x, y = draw(3, 12, 9)
    left_out = [
        np.array([kid(np.delete(x, i, 0), y).value for i in range(12)]),
        np.array([kid(x, np.delete(y, i, 0)).value for i in range(9)]),
    ]
    jackknife = sum((len(v) - 1) * v.var() for v in left_out)

    def interaction(kernel, same):
        pairs = ~np.eye(len(kernel), dtype=bool) if same else np.ones_like(kernel, bool)
        rows, columns = (np.where(pairs, kernel, 0).sum(axis) / pairs.sum(axis) for axis in (1, 0))
        return (kernel[pairs] ** 2).mean() - (rows**2).mean() - (columns**2).mean() + kernel[pairs].mean() ** 2

    second = 2 * interaction(cubic_kernel(x, x), True) / (12 * 11) + 2 * interaction(cubic_kernel(y, y), True) / (9 * 8)
    second += 4 * interaction(cubic_kernel(x, y), False) / (12 * 9)
    assert kid(x, y).standard_error ** 2 == pytest.approx(max(jackknife - 2 * second, 0) + second, rel=1e-10)


def test_tiles_make_no_difference(monkeypatch):
    x, y = draw(4, 50, 33)
    whole = kid(x, y)
    monkeypatch.setattr(mmd, "TILE", 7)
    np.testing.assert_allclose(kid(x, y), whole, rtol=1e-12)


def test_a_set_against_itself_lies_below_zero_by_its_diagonal():
    x, _ = draw(5, 40, 3)
    kernel = cubic_kernel(x, x)
    off = (kernel.sum() - np.trace(kernel)) / (40 * 39)
    assert kid(x, x).value == pytest.approx(-2 * (np.trace(kernel) / 40 - off) / 40, rel=1e-12)


def test_refuses_what_it_cannot_measure():
    x, y = draw(7, 10, 10)
    bad = np.where(np.arange(40).reshape(10, 4) == 9, np.nan, x)
    for arguments, words in (
        ((x[:2], y), "features1: 2 rows: must be at least 3"),
        ((x, y[:, :3]), r"features2: shape \(10, 3\): must be \(n, 4\)"),
        ((bad, y), "features1: row 2 .* NaN or infinity"),
        ((x.ravel(), y), "features1: shape"),
    ):
        with pytest.raises(ValueError, match=words):
            kid(*arguments)
