"""Precision, recall, density and coverage: counted by hand, by brute force, and against their expected values."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from core.metrics import manifold
from core.metrics.manifold import density_coverage, precision_recall
from eval.parity.tolerances import STATISTICS_SIGMA

LINE = np.array([[0.0], [1], [3], [7]])  # for k = 1 the radii are 1, 1, 2, 4
POINTS = np.array([[0.5], [5], [11], [20]])  # 4.5, 4.5, 6, 9


def test_counted_by_hand_on_a_line():
    # 0.5 is in the balls of 0 and 1; 5 in that of 7, and on the sphere of 3; 11 on the sphere of 7; 20 in none.
    assert precision_recall(LINE, POINTS, 1) == (3 / 4, 1.0)
    assert precision_recall(POINTS, LINE, 1) == (1.0, 3 / 4)
    assert density_coverage(LINE, POINTS, 1) == ((2 + 1) / 4, 3 / 4)  # the ball of 3 has 5 on its sphere alone
    # For k = 2 the radii of the line are 3, 2, 3, 6: 0.5 is in three balls, 5 in two, 11 in one.
    assert density_coverage(LINE, POINTS, 2) == ((3 + 2 + 1) / (2 * 4), 1.0)
    assert density_coverage(LINE, POINTS[3:], 2) == (0.0, 0.0)


def test_counted_by_hand_in_the_plane():
    # A square and its centre; a far pair that only covers itself.
    real = np.array([[0, 0], [2, 0], [0, 2], [2, 2]])
    generated = np.array([[1, 1], [1, 1], [50, 50], [51, 50]])
    # k = 1: radii 2 about the corners hold the centre (distance 1.41) four times over, twice.
    assert precision_recall(real, generated, 1) == (1 / 2, 0.0)  # the generated balls have radii 0, 0, 1, 1
    assert density_coverage(real, generated, 1) == (8 / 4, 1.0)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_a_set_against_itself(k, offset):
    """Whatever the rounding, every k-th neighbour lies on its sphere, and k points, itself included, are inside."""
    x = offset + np.random.default_rng(k).standard_normal((700, 60))
    assert precision_recall(x, x, k) == (1.0, 1.0)
    assert density_coverage(x, x, k) == (1.0, 1.0)


def test_copies():
    # Each real row three times: radii of 0 for k = 2, on whose spheres a copy lies.
    x = np.random.default_rng(1).standard_normal((50, 8))
    assert precision_recall(np.tile(x, (3, 1)), x, 2) == (1.0, 1.0)
    assert density_coverage(np.tile(x, (3, 1)), x, 2) == (0.0, 0.0)
    # A generator that shows one real image only is precise and covers one row.
    collapsed = np.tile(x[:1], (20, 1))
    assert precision_recall(x, collapsed, 3) == (1.0, 1 / 50)
    # All in one point: on every sphere, and inside none.
    for point in (collapsed, np.zeros((20, 3))):
        assert precision_recall(point, point, 3) == (1.0, 1.0)
        assert density_coverage(point, point, 3) == (0.0, 0.0)


@pytest.mark.parametrize(("n", "m", "d", "k"), [(90, 70, 3, 1), (70, 90, 20, 3), (600, 530, 5, 5)])
def test_equals_brute_force(n, m, d, k):
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((n, d)).astype(np.float32), 0.3 + 1.2 * rng.standard_normal((m, d)).astype(np.float32)
    radii = [np.sort(cdist(z, z), axis=1)[:, k] for z in (x, y)]
    across = cdist(x, y)
    inside = across < radii[0][:, None]
    expected = (inside.any(axis=0).mean(), (across < radii[1]).any(axis=1).mean())
    assert precision_recall(x, y, k) == pytest.approx(expected, rel=1e-15)
    assert density_coverage(x, y, k) == pytest.approx((inside.sum() / (k * m), inside.any(axis=1).mean()), rel=1e-15)
    assert 0 < expected[0] < 1


def test_expected_values_for_one_distribution():
    """Density 1; coverage 1 - prod over i = 1 .. k of (n - i) / (2 n - i). Naeem et al. 2020."""
    n, k, draws = 50, 3, 300
    rng = np.random.default_rng(2)
    found = np.array([density_coverage(*rng.standard_normal((2, n, 4)), k) for _ in range(draws)])
    expected = [1.0, 1 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])]
    error = found.std(axis=0) / np.sqrt(draws)
    assert (np.abs(found.mean(axis=0) - expected) < STATISTICS_SIGMA * error).all() and error.max() < 0.01


def test_blocks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 60, 4))
    whole = precision_recall(x, y), density_coverage(x, y)
    monkeypatch.setattr(manifold, "BLOCK", 7)
    assert (precision_recall(x, y), density_coverage(x, y)) == whole


def test_refuses_what_it_cannot_measure():
    x = np.zeros((4, 2))
    for function, arguments, words in (
        (precision_recall, (x, x, 4), "real: 4 rows: must be at least 5"),
        (precision_recall, (x, x[:3]), "generated: 3 rows: must be at least 4"),
        (density_coverage, (x, x[:0], 3), "generated: 0 rows: must be at least 1"),
        (density_coverage, (x, x, 0), "k = 0: must be at least 1"),
        (density_coverage, (x, np.zeros((4, 3)), 2), "generated: shape"),
        (precision_recall, (np.full((4, 2), np.inf), x), "real: row 0"),
    ):
        with pytest.raises(ValueError, match=words):
            function(*arguments)
