"""The area under the ROC curve: against scikit-learn, by pairs, for two Gaussians, and its standard error by draws."""

import math
from pathlib import Path

import numpy as np
import pytest

from core.metrics.auc import area_under_curve
from eval.parity.tolerances import STATISTICS_SIGMA
from tests.peers.feature_oracle import make_scores

STORED = np.load(Path(__file__).parents[1] / "eval" / "data" / "features.npz")


def test_equals_scikit_learn_with_ties():
    first, second = make_scores()
    assert len(set(first) & set(second)) > 5 and len(set(first)) < len(first)
    assert area_under_curve(first, second).value == pytest.approx(float(STORED["scikit-learn auc"]), rel=1e-14)


def test_equals_the_count_of_pairs():
    rng = np.random.default_rng(0)
    for m, n in ((2, 2), (3, 40), (50, 7)):
        a, b = rng.integers(0, 6, m).astype(float), rng.integers(1, 7, n).astype(float)
        wins = b[:, None] - a
        assert area_under_curve(a, b).value == pytest.approx(((wins > 0) + (wins == 0) / 2).mean(), rel=1e-14)
        assert area_under_curve(b, a).value == pytest.approx(1 - area_under_curve(a, b).value, abs=1e-14)


def test_two_gaussians_and_the_standard_error():
    """The area is Phi(shift / sqrt(1 + width^2)). Over draws the standard error is the spread of the areas."""
    shift, width, draws = 0.7, 1.5, 400
    expected = (1 + math.erf(shift / math.sqrt(2 * (1 + width**2)))) / 2
    rng = np.random.default_rng(1)
    found = [area_under_curve(rng.normal(size=60), rng.normal(shift, width, 40)) for _ in range(draws)]
    areas, errors = np.array(found).T
    assert abs(areas.mean() - expected) < STATISTICS_SIGMA * areas.std() / math.sqrt(draws)
    assert errors.mean() == pytest.approx(areas.std(), rel=STATISTICS_SIGMA / math.sqrt(2 * draws))
    # DeLong's covariances by rows and columns of the matrix of pairs.
    a, b = rng.normal(size=30), rng.normal(size=20)
    wins = (b[:, None] > a).astype(float)
    variance = wins.mean(axis=0).var(ddof=1) / 30 + wins.mean(axis=1).var(ddof=1) / 20
    assert area_under_curve(a, b).standard_error == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_sets_apart_and_alike():
    a = np.arange(5.0)
    assert area_under_curve(a, a + 10) == (1.0, 0.0) and area_under_curve(a + 10, a) == (0.0, 0.0)
    assert area_under_curve(a, a).value == 0.5 and area_under_curve(np.zeros(3), np.zeros(4)) == (0.5, 0.0)


def test_refuses_what_has_no_area():
    for first, second, words in (
        ([1.0], [1.0, 2.0], "first: shape"),
        ([1.0, 2.0], [[1.0, 2.0]], "second: shape"),
        ([1.0, np.nan], [1.0, 2.0], "first: holds NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            area_under_curve(first, second)
