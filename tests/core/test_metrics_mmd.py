"""MMD under the Gaussian kernel against its definition and its closed form for Gaussians."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from core.metrics.mmd import two_sample
from eval.parity.tolerances import STATISTICS_SIGMA


def population_mmd(mean1, cov1, mean2, cov2, sigma):
    """x - y is Gaussian, and E exp(-|z|^2 / (2 sigma^2)) of a Gaussian z is a Gaussian integral."""

    def expected(mean, cov):
        wide = np.eye(len(mean)) + cov / sigma**2
        return np.exp(-mean @ np.linalg.solve(wide, mean) / (2 * sigma**2)) / np.sqrt(np.linalg.det(wide))

    zero = np.zeros_like(mean1)
    return expected(zero, 2 * cov1) + expected(zero, 2 * cov2) - 2 * expected(mean1 - mean2, cov1 + cov2)


MEANS = np.array([0.0, 0.3, 1.0]), np.array([0.4, 0.0, 0.7])
COVS = np.array([[1.0, 0.5, 0], [0.5, 1.0, 0.2], [0, 0.2, 0.6]]), np.diag([0.5, 1.5, 1.0])


def draw(seed, m, n):
    rng = np.random.default_rng(seed)
    return rng.multivariate_normal(MEANS[0], COVS[0], m), rng.multivariate_normal(MEANS[1], COVS[1], n)


def gaussian_kernel(sigma):
    return lambda a, b: np.exp(-cdist(a, b, "sqeuclidean") / (2 * sigma**2))


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_equals_the_definition(sigma):
    x, y = draw(0, 31, 17)
    kernel = gaussian_kernel(sigma)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    assert two_sample(x, y, kernel).unbiased == pytest.approx(sum(within) - 2 * xy.mean(), rel=1e-12)


def test_expected_value_of_gaussians_and_the_standard_error():
    sigma = 1.5
    sums = [two_sample(*draw(seed, 50, 40), gaussian_kernel(sigma)) for seed in range(400)]
    values, errors = np.array([s.unbiased for s in sums]), np.array([s.standard_error for s in sums])
    spread = values.std(ddof=1)
    expected = population_mmd(*[value for pair in zip(MEANS, COVS, strict=True) for value in pair], sigma)
    assert expected > 3 * spread / 20
    assert abs(values.mean() - expected) < STATISTICS_SIGMA * spread / np.sqrt(len(values))
    assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.2)


def test_the_same_set_lies_below_zero():
    x, _ = draw(1, 60, 3)
    assert two_sample(x, x, gaussian_kernel(10.0)).unbiased < 0
