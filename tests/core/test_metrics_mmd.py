"""MMD under the Gaussian kernel against its definition and its closed form for Gaussians."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from core.metrics.mmd import cmmd
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


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_equals_the_definition(sigma):
    x, y = draw(0, 31, 17)
    kernels = [np.exp(-cdist(a, b, "sqeuclidean") / (2 * sigma**2)) for a, b in ((x, x), (y, y), (x, y))]
    biased = kernels[0].mean() + kernels[1].mean() - 2 * kernels[2].mean()
    within = [(k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    assert cmmd(x, y, sigma, 1.0, "biased").value == pytest.approx(biased, rel=1e-12)
    unbiased = within[0] + within[1] - 2 * kernels[2].mean()
    assert cmmd(x, y, sigma, 250.0, "unbiased").value == pytest.approx(250 * unbiased, rel=1e-12)
    assert cmmd(x, y).value == cmmd(x, y, 10.0, 1000.0, "biased").value  # the authors' constants


def test_expected_value_of_gaussians_and_the_standard_error():
    sigma = 1.5
    found = np.array([cmmd(*draw(seed, 50, 40), sigma, 1.0, "unbiased") for seed in range(400)])
    spread = found[:, 0].std(ddof=1)
    expected = population_mmd(*[value for pair in zip(MEANS, COVS, strict=True) for value in pair], sigma)
    assert expected > 3 * spread / 20
    assert abs(found[:, 0].mean() - expected) < STATISTICS_SIGMA * spread / np.sqrt(len(found))
    assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(spread, rel=0.2)
    scaled = cmmd(*draw(0, 50, 40), sigma, 7.0, "unbiased")
    np.testing.assert_allclose(scaled, 7 * found[0], rtol=1e-12)


def test_small_distances_keep_their_digits():
    # Two points, three times each: 2 - 2 exp(-r^2 / (2 sigma^2)). Subtracting kernels near 1 would lose every digit.
    x, y = np.zeros((3, 2)), np.tile([6e-7, 8e-7], (3, 1))
    for estimator in ("biased", "unbiased"):
        assert cmmd(x, y, 10.0, 1.0, estimator).value == pytest.approx(-2 * np.expm1(-1e-12 / 200), rel=1e-9, abs=0)


def test_the_same_set_is_at_zero():
    x, _ = draw(1, 60, 3)
    assert abs(cmmd(x, x).value) < 1e-9
    assert cmmd(x, x, estimator="unbiased").value < 0


def test_refuses_what_it_cannot_measure():
    x, y = draw(2, 5, 5)
    for arguments, words in (
        ((x[:2], y), "features1: 2 rows: must be at least 3"),
        ((x, y[:, :2]), "features2: shape"),
        ((x, np.full((5, 3), np.inf)), "features2: row 0"),
        ((x, y, 0.0), "sigma = 0.0: must be above 0"),
        ((x, y, 1.0, np.inf), "scale = inf: must be above 0 and finite"),
        ((x, y, 1.0, 1.0, "minimum"), "estimator = 'minimum': must be one of unbiased, biased"),
    ):
        with pytest.raises(ValueError, match=words):
            cmmd(*arguments)
