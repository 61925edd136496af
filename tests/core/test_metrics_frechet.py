"""Moments and Fréchet distances against closed forms, NumPy's two-pass covariance and scipy.linalg.sqrtm."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from core.metrics.frechet import frechet_distance, frechet_distance_from_features
from core.metrics.moments import Moments, moments_of


def rng(*key):
    return np.random.Generator(np.random.Philox(key=key[0]))


def random_covariance(generator, d, rank=None):
    a = generator.standard_normal((d, rank or 2 * d))
    return a @ a.T / a.shape[1]


def symmetric_root(x):
    """Root of a covariance from the singular values of its centred rows, exact where it is singular."""
    _, s, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return (vt.T * s) @ vt / np.sqrt(len(x) - 1)


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
@pytest.mark.parametrize("order", ["as drawn", "sorted"])
def test_moments_equal_two_pass_moments_in_any_batches(batch, order):
    x = 1e4 + rng(1).standard_normal((500, 12)) @ rng(2).standard_normal((12, 12))
    if order == "sorted":
        x = x[np.argsort(x[:, 0])]
    moments = moments_of(x[i : i + batch] for i in range(0, len(x), batch))
    centred = x - x[0]
    mean = centred.mean(axis=0)
    exact = (centred - mean).T @ (centred - mean) / (len(x) - 1)
    assert moments.count == 500
    np.testing.assert_allclose(moments.mean, x[0] + mean, rtol=1e-14)
    assert np.abs(moments.covariance - exact).max() < 1e-12 * np.abs(exact).max()


def test_moments_merge_in_any_order_and_float32_input():
    x = rng(3).standard_normal((300, 5)).astype(np.float32)
    parts = [moments_of([x[:10]]), Moments(5), moments_of([x[10:200]]), moments_of([x[200:]])]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        total = Moments(5)
        for i in order:
            total.merge(parts[i])
        np.testing.assert_allclose(total.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=0, atol=1e-13)
    assert parts[0].count == 10


def test_moments_refuse_what_they_cannot_hold():
    moments = Moments(3)
    moments.update(np.zeros((2, 3)))
    for bad, words in (
        (np.array([[0, 1, np.nan]]), "row 0 .* NaN or infinity"),
        (np.zeros((2, 4)), r"shape \(2, 4\): must be \(n, 3\)"),
        (np.zeros(3), "must be"),
        (np.zeros((1, 3), complex), "complex128: must be real"),
    ):
        with pytest.raises(ValueError, match=words):
            moments.update(bad)
    assert moments.count == 2
    with pytest.raises(ValueError, match="at least 2 rows"):
        _ = moments_of([np.zeros((1, 3))]).covariance
    with pytest.raises(ValueError, match="none given"):
        moments_of([])
    with pytest.raises(ValueError, match="must be 3"):
        moments.merge(Moments(4))
    with pytest.raises(ValueError, match="count = 0"):
        _ = Moments(2).mean


def test_one_dimension_by_hand():
    # (3 - 1)^2 + (sqrt(9) - sqrt(4))^2 = 5
    assert frechet_distance([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(5.0, rel=1e-14)


def test_commuting_covariances_closed_form():
    q = scipy.linalg.qr(rng(4).standard_normal((20, 20)))[0]
    w1, w2 = rng(5).uniform(0.1, 3, 20), rng(6).uniform(0.1, 3, 20)
    mu = rng(7).standard_normal(20)
    value = frechet_distance(mu, q * w1 @ q.T, 0 * mu, q * w2 @ q.T)
    assert value == pytest.approx(mu @ mu + ((np.sqrt(w1) - np.sqrt(w2)) ** 2).sum(), rel=1e-12)


def test_well_conditioned_matrices_against_sqrtm():
    g = rng(8)
    c1, c2 = random_covariance(g, 40), random_covariance(g, 40)
    m1, m2 = g.standard_normal(40), g.standard_normal(40)
    oracle = (m1 - m2) @ (m1 - m2) + np.trace(c1) + np.trace(c2) - 2 * np.trace(scipy.linalg.sqrtm(c1 @ c2)).real
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(oracle, rel=1e-11)


@pytest.mark.parametrize("singular", ["first", "second", "both"])
def test_singular_covariances_closed_form(singular):
    # In a common eigenbasis, with zeros among the eigenvalues.
    q = scipy.linalg.qr(rng(9).standard_normal((12, 12)))[0]
    w1, w2 = rng(10).uniform(0.5, 2, 12), rng(11).uniform(0.5, 2, 12)
    if singular in ("first", "both"):
        w1[:5] = 0
    if singular in ("second", "both"):
        w2[3:8] = 0
    value = frechet_distance(np.zeros(12), q * w1 @ q.T, np.zeros(12), q * w2 @ q.T)
    assert value == pytest.approx(((np.sqrt(w1) - np.sqrt(w2)) ** 2).sum(), abs=1e-6)


def test_identical_and_degenerate_gaussians():
    c = random_covariance(rng(12), 30)
    assert frechet_distance(np.ones(30), c, np.ones(30), c) < 1e-12
    zero = np.zeros((3, 3))
    assert frechet_distance(np.zeros(3), zero, np.array([3.0, 4, 0]), zero) == pytest.approx(25)


@pytest.mark.parametrize(("n1", "n2", "d"), [(20, 30, 50), (20, 300, 50), (300, 20, 50), (200, 300, 50)])
def test_features_agree_with_roots_of_their_covariances(n1, n2, d):
    g = rng(13)
    x1, x2 = g.standard_normal((n1, d)), 0.5 + g.standard_normal((n2, d)) @ random_covariance(g, d)
    c1, c2 = np.cov(x1, rowvar=False), np.cov(x2, rowvar=False)
    delta = x1.mean(0) - x2.mean(0)
    if min(n1, n2) > d:
        trace = np.trace(scipy.linalg.sqrtm(c1 @ c2)).real
    else:  # sqrtm is wrong for singular products: the nuclear norm of the product of the two symmetric roots
        trace = scipy.linalg.svdvals(symmetric_root(x1) @ symmetric_root(x2)).sum()
    oracle = delta @ delta + np.trace(c1) + np.trace(c2) - 2 * trace
    assert frechet_distance_from_features(x1, x2) == pytest.approx(oracle, rel=1e-11)


def test_fewer_rows_than_features_closed_form():
    # Rank one each, along orthogonal and along equal axes: tr C1 + tr C2, and (s1 - s2)^2.
    e = np.eye(10)
    x, y, z = (np.stack([-s * e[i], s * e[i]]) for s, i in ((1, 0), (3, 1), (3, 0)))
    assert frechet_distance_from_features(x, y) == pytest.approx(2 + 18, rel=1e-14)
    assert frechet_distance_from_features(x, z) == pytest.approx(2 * (3 - 1) ** 2, rel=1e-14)
    g = rng(14).standard_normal((8, 100))
    assert frechet_distance_from_features(g, g) < 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 12), st.integers(2, 30), st.integers(2, 30))
def test_symmetry_shift_and_rotation_invariance(seed, d, n1, n2):
    g = rng(seed)
    a, b = g.standard_normal((n1, d)), 2 * g.standard_normal((n2, d)) + 1
    value = frechet_distance_from_features(a, b)
    q, shift = np.linalg.qr(g.standard_normal((d, d)))[0], g.standard_normal(d)
    assert frechet_distance_from_features(b, a) == pytest.approx(value, rel=1e-6)
    assert frechet_distance_from_features(a + shift, b + shift) == pytest.approx(value, rel=1e-6)
    assert frechet_distance_from_features(a @ q, b @ q) == pytest.approx(value, rel=1e-6)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    assert frechet_distance(a.mean(0), ca, b.mean(0), cb) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arguments_are_left_as_they_were_in_either_layout(order):
    c1, c2 = (np.array(random_covariance(rng(seed), 300), order=order) for seed in (15, 16))
    before = c1.copy(), c2.copy()
    value = frechet_distance(np.zeros(300), c1, np.ones(300), c2)
    assert np.array_equal(c1, before[0]) and np.array_equal(c2, before[1])
    oracle = 300 + np.trace(c1) + np.trace(c2) - 2 * np.trace(scipy.linalg.sqrtm(c1 @ c2)).real
    assert value == pytest.approx(oracle, rel=1e-11)


@pytest.mark.parametrize("where", [(0, 1), (299, 2), (280, 270), (5, 290)])
def test_symmetry_is_demanded_everywhere_and_rounding_forgiven(where):
    c = random_covariance(rng(17), 300)
    c[where] += 1e-7 * c.max()  # as float32 leaves it
    mended = (c + c.T) / 2
    value = frechet_distance(np.zeros(300), c, np.zeros(300), np.eye(300))
    assert value == pytest.approx(frechet_distance(np.zeros(300), mended, np.zeros(300), np.eye(300)), rel=1e-13)
    c[where] += 1e-4 * c.max()
    with pytest.raises(ValueError, match="cov1: not symmetric"):
        frechet_distance(np.zeros(300), c, np.zeros(300), np.eye(300))


def test_frechet_refuses_what_is_no_gaussian():
    eye, zero = np.eye(2), np.zeros(2)
    for arguments, words in (
        ((zero, eye, np.zeros(3), np.eye(3)), "mu2: 3 features: must be 2"),
        ((zero, np.eye(3), zero, eye), "mu1, cov1: shapes"),
        ((zero, eye, zero, np.array([[1.0, 0.5], [0, 1]])), "cov2: not symmetric"),
        ((zero, eye, zero, eye * np.nan), "mu2, cov2: NaN"),
        ((zero, -eye, zero, -eye), "positive semi-definite"),
    ):
        with pytest.raises(ValueError, match=words):
            frechet_distance(*arguments)
    with pytest.raises(ValueError, match="features2: 1 rows"):
        frechet_distance_from_features(np.zeros((3, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="features2: shape"):
        frechet_distance_from_features(np.zeros((3, 2)), np.zeros((3, 4)))
