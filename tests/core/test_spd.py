"""Symmetric positive definite matrices: the chart, the checks, the laws, and metrics against closed forms."""

import math

import numpy as np
import pytest
from scipy import special

from core.metrics.distances import wasserstein
from core.metrics.spd import (
    affine_squared,
    compare,
    discrepancies,
    energy_kernel,
    gaussian_kernel,
    karcher_mean,
    log_euclidean,
    sample_of,
    total_log_variance,
)
from core.spd.chart import (
    coordinates,
    fit_chart,
    from_coordinates,
    matrix_log,
    matrix_power,
    size_of,
    unvec,
    vec,
)
from core.spd.laws import (
    DEFAULT_M,
    lognormal_moments,
    paper_centre,
    regression_moments,
    riemannian_gaussian_logs,
    simulate_spd,
)
from core.spd.matrices import check_matrices, read_matrices

SIZES = (1, 2, 3, 8, 20)
RNG = np.random.default_rng(7)


def matrices(count, m, spread=2.0, rng=RNG):
    """Matrices with log-eigenvalues within `spread`, in random directions."""
    q = np.linalg.qr(rng.standard_normal((count, m, m)))[0]
    values = np.exp(rng.uniform(-spread / 2, spread / 2, (count, 1, m)))
    x = q * values @ q.transpose(0, 2, 1)
    return (x + x.transpose(0, 2, 1)) / 2


@pytest.mark.parametrize("m", SIZES)
def test_the_chart_and_back(m):
    x = matrices(5 * m * m + 5, m)
    for kind in ("full", "scale"):
        chart = fit_chart(coordinates(x), kind)
        back = chart.decode(chart.encode(x))
        assert chart.m == m and np.array_equal(back, back.transpose(0, 2, 1))
        assert np.linalg.norm(back - x) <= 1e-12 * np.linalg.norm(x)
    v = fit_chart(coordinates(x), "full").encode(x)
    assert np.allclose(v.T @ v / len(v), np.eye(v.shape[1]), atol=1e-10)
    scaled = fit_chart(coordinates(x), "scale").encode(x)
    assert np.isclose(np.square(scaled).sum() / len(v), v.shape[1])


def test_equal_eigenvalues_and_a_condition_of_1e10():
    assert np.array_equal(coordinates(np.eye(4)[None]), np.zeros((1, 10)))
    q = np.linalg.qr(RNG.standard_normal((4, 4)))[0]
    logs = np.array([0.0, 0.0, 5.0, math.log(1e10)])
    x = (q * np.exp(logs)) @ q.T
    found = matrix_log((x + x.T)[None] / 2)[0]
    assert np.linalg.norm(found - (q * logs) @ q.T) <= 1e-5 * np.linalg.norm(logs)


def test_the_order_of_the_coordinates_and_their_factor():
    symmetric = np.array([[[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]]])
    root = math.sqrt(2)
    assert np.allclose(vec(symmetric), [[1, 2 * root, 3 * root, 4, 5 * root, 6]])
    assert np.array_equal(unvec(vec(symmetric)), symmetric)
    for bad in (0, 2, 4, 5):
        with pytest.raises(ValueError, match="must be m"):
            size_of(bad)


@pytest.mark.parametrize("m", SIZES)
def test_isometry_and_congruence(m):
    a, b = matrices(30, m), matrices(30, m)
    squared = np.square(matrix_log(a) - matrix_log(b)).sum(axis=(1, 2))
    assert np.allclose(np.square(coordinates(a) - coordinates(b)).sum(axis=1), squared, rtol=1e-12)
    q = np.linalg.qr(RNG.standard_normal((m, m)))[0]
    turned = coordinates(q @ a @ q.T)
    linear = np.stack([vec((q @ basis @ q.T)[None])[0] for basis in unvec(np.eye(m * (m + 1) // 2))])
    assert np.allclose(turned, coordinates(a) @ linear, atol=1e-11)
    order = RNG.permutation(m)
    permuted = unvec(coordinates(a[:, order][:, :, order]))
    assert np.allclose(permuted, unvec(coordinates(a))[:, order][:, :, order], atol=1e-11)


def test_whitening_that_is_not_possible_names_scale():
    x = matrices(6, 3)
    with pytest.raises(ValueError, match=r"6 training matrices: must be at least 7 .* whiten = scale"):
        fit_chart(coordinates(x))
    assert fit_chart(coordinates(x), "scale").m == 3
    flat = from_coordinates(RNG.standard_normal((50, 6)) * [1, 1, 1, 1, 1, 0])
    with pytest.raises(ValueError, match="whiten = scale"):
        fit_chart(coordinates(flat))
    with pytest.raises(ValueError, match="all equal"):
        fit_chart(np.ones((9, 3)))


GOOD = matrices(4, 3)


def changed(index, value):
    """GOOD with one matrix replaced."""
    x = GOOD.copy()
    x[index] = value
    return x


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((4, 3, 2)), "must be (N, m, m)"),
        (np.ones((3, 3)), "must be (N, m, m)"),
        (np.ones((4, 0, 0)), "m at least 1"),
        (np.ones((0, 3, 3)), "N and m at least 1"),
        (GOOD.astype(complex), "complex128"),
        (changed(2, np.nan), "x[2]: holds NaN"),
        (changed(1, GOOD[1] + np.triu(np.ones((3, 3)), 1)), "x[1]: asymmetric by"),
        (changed(3, np.diag([1.0, 2.0, 0.0])), "x[3]: its least eigenvalue is 0: must be above 0; shrink"),
        (changed(0, np.diag([1.0, 2.0, -0.5])), "x[0]: its least eigenvalue is -0.5"),
        (changed(1, np.diag([1.0, 2.0, 1e-15])), "x[1]: its log-eigenvalues spread over 35.2"),
    ],
)
def test_what_is_no_such_matrix_is_named(values, words):
    with pytest.raises(ValueError) as error:
        check_matrices(values, "x")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_asymmetry_from_rounding_is_removed_and_said(caplog):
    x = changed(2, GOOD[2] + 1e-10 * np.triu(np.ones((3, 3)), 1))
    found = check_matrices(x, "x")
    assert np.array_equal(found, found.transpose(0, 2, 1)) and "x: 1 matrices are asymmetric" in caplog.text
    assert np.array_equal(found[[0, 1, 3]], GOOD[[0, 1, 3]])


def test_files(tmp_path):
    np.save(tmp_path / "a.npy", GOOD)
    assert np.array_equal(read_matrices(tmp_path / "a.npy").values, GOOD)
    (tmp_path / "run").mkdir()
    np.save(tmp_path / "run" / "samples.npy", GOOD)
    assert np.array_equal(read_matrices(tmp_path / "run").values, GOOD)
    y, names = RNG.random((4, 2)), np.array(["rest", "rock"])
    np.savez(tmp_path / "b.npz", matrices=GOOD, labels=[0, 1, 1, 0], class_names=names, y=y, age=[1, 2, 3, 4])
    found = read_matrices(tmp_path / "b.npz")
    assert found.class_names == ("rest", "rock") and list(found.labels) == [0, 1, 1, 0]
    assert list(found.parameters) == ["age", "y1", "y2"] and np.array_equal(found.parameters["y2"], y[:, 1])
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "short.npz", matrices=GOOD, age=[1, 2])
    np.savez(tmp_path / "none.npz", other=GOOD)
    for name, words in (
        ("pickled.npy", "pickled"),
        ("short.npz", "age is"),
        ("none.npz", "must hold an array named matrices"),
        ("nowhere.npy", "no such file"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            read_matrices(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


@pytest.mark.parametrize("law", DEFAULT_M)
def test_a_law_is_a_function_of_the_index(law):
    whole = simulate_spd(law, 6, seed=3)
    part = simulate_spd(law, 2, seed=3, first=4)
    assert np.array_equal(whole.values[4:], part.values)
    assert whole.values.shape == (6, DEFAULT_M[law], DEFAULT_M[law])
    assert not np.allclose(whole.values, simulate_spd(law, 6, seed=4).values)
    assert simulate_spd(law, 2, m=2).values.shape == (2, 2, 2)
    check_matrices(whole.values, law)


def test_the_laws_have_their_moments():
    z = coordinates(simulate_spd("lognormal", 4000, 1).values)
    mean, covariance = lognormal_moments(3)
    assert np.abs(z.mean(axis=0) - mean).max() < 5 * math.sqrt(1.8 / 4000)
    assert np.abs(np.cov(z.T) - covariance).max() < 5 * 1.8 * math.sqrt(2 / 4000)
    drawn = simulate_spd("regression", 4000, 1)
    y = np.stack([drawn.parameters["y1"], drawn.parameters["y2"]], axis=1)
    mean, deviation = regression_moments(y, 3)
    noise = (coordinates(drawn.values) - mean) / deviation[:, None]
    assert np.abs(np.cov(noise.T) - np.eye(6)).max() < 5 * math.sqrt(2 / 4000)
    assert np.abs(y).max() < 1.5 and np.abs(np.abs(y).mean() - 0.75) < 0.03


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_the_riemannian_gaussian_against_quadrature(sigma):
    logs = riemannian_gaussian_logs(3, sigma, 5, range(4000))
    axis = np.linspace(-8, 8, 161) * sigma
    a, b, c = np.meshgrid(axis, axis, axis, indexing="ij")
    squared = a * a + b * b + c * c
    density = np.exp(-squared / (2 * sigma**2)) * np.sinh(abs(a - b) / 2) * np.sinh(abs(a - c) / 2)
    density *= np.sinh(abs(b - c) / 2)
    found = np.square(logs).sum(axis=1)
    expected = float((squared * density).sum() / density.sum())
    assert abs(found.mean() - expected) < 5 * found.std() / math.sqrt(4000)


def test_the_paper_s_law_has_its_distance_from_its_centre():
    values = simulate_spd("paper", 1000, 2).values
    squared = affine_squared(np.tile(paper_centre(8), (1000, 1, 1)), values)
    assert abs(squared.mean() - 6.36) < 5 * squared.std() / math.sqrt(1000)
    assert np.isclose(np.linalg.cond(paper_centre(8)), 100)


def test_energy_distance_and_wasserstein_of_gaussians_in_closed_form():
    shift, n = 1.0, 4000
    x, y = RNG.standard_normal((n, 1)), shift + RNG.standard_normal((n, 1))

    def mean_distance(mu, s):  # of a folded normal
        return s * math.sqrt(2 / math.pi) * math.exp(-(mu**2) / (2 * s**2)) + mu * special.erf(mu / (s * math.sqrt(2)))

    expected = 2 * mean_distance(shift, math.sqrt(2)) - 2 * mean_distance(0.0, math.sqrt(2))
    halves = np.ones((n, 1), bool)
    halves[::2] = False
    found = discrepancies(x, halves, {"y": y}, energy_kernel)
    assert abs(found.others["y"][0] - expected) < 0.05 and abs(found.floor[0]) < 0.005
    a, b = from_coordinates(x), from_coordinates(y)
    assert abs(compare(sample_of(a), sample_of(b))["wasserstein_1"] - shift) < 0.1
    assert wasserstein([0.0], [1.0]) == 1.0


def test_discrepancies_against_their_definition():
    real, other = RNG.standard_normal((90, 3)), RNG.standard_normal((40, 3)) + 0.5
    halves = RNG.permuted(np.tile(np.arange(90)[:, None] < 45, (1, 3)), axis=0)
    for kernel in (energy_kernel, gaussian_kernel(real)):
        found = discrepancies(real, halves, {"other": other}, kernel)

        def of(a, b, kernel=kernel):
            aa, bb = kernel(a, a), kernel(b, b)
            np.fill_diagonal(aa, 0)
            np.fill_diagonal(bb, 0)
            within = aa.sum() / (len(a) * (len(a) - 1)) + bb.sum() / (len(b) * (len(b) - 1))
            return within - 2 * kernel(a, b).mean()

        for k in range(3):
            first, second = real[halves[:, k]], real[~halves[:, k]]
            assert np.isclose(found.floor[k], of(first, second), rtol=0, atol=1e-12)
            assert np.isclose(found.others["other"][k], of(first, other), rtol=0, atol=1e-12)


def test_tiles_change_nothing(monkeypatch):
    real, other = RNG.standard_normal((50, 6)), RNG.standard_normal((30, 6))
    halves = (np.arange(50) % 2 == 0)[:, None]
    whole = discrepancies(real, halves, {"o": other}, energy_kernel)
    monkeypatch.setattr("core.metrics.spd.TILE", 7)
    tiled = discrepancies(real, halves, {"o": other}, energy_kernel)
    assert np.allclose(whole.floor, tiled.floor) and np.allclose(whole.others["o"], tiled.others["o"])


def test_the_karcher_mean_of_two_matrices_is_the_geometric_mean():
    a, b = matrices(2, 4)[:, None]
    root, inverse = matrix_power(a, 0.5), matrix_power(a, -0.5)
    middle = root @ matrix_power(inverse @ b @ inverse, 0.5) @ root
    found = karcher_mean(np.concatenate([a, b]))
    assert np.allclose(found.mean, middle[0], atol=1e-9) and found.gradient_norm < 1e-9
    assert np.isclose(affine_squared(a, b)[0], 4 * affine_squared(a, middle)[0])


def test_a_matrix_and_its_inverse():
    a = matrices(5, 3)
    inverse = np.linalg.inv(a)
    expected = 4 * np.square(coordinates(a)).sum(axis=1)
    assert np.allclose(affine_squared(a, inverse), expected)
    assert np.allclose(np.diag(log_euclidean(coordinates(a), coordinates(inverse))) ** 2, expected)


def test_metrics_agree_on_commuting_matrices():
    q = np.linalg.qr(RNG.standard_normal((3, 3)))[0]
    logs = RNG.standard_normal((40, 3))
    x = (q * np.exp(logs)[:, None, :]) @ q.T
    x = (x + x.transpose(0, 2, 1)) / 2
    a, b = x[:20], x[20:]
    assert np.allclose(affine_squared(a, b), np.square(logs[:20] - logs[20:]).sum(axis=1))
    assert np.allclose(karcher_mean(a).mean, (q * np.exp(logs[:20].mean(axis=0))) @ q.T)
    found = compare(sample_of(a), sample_of(b))
    assert np.isclose(found["mean_squared"], found["karcher_squared"])
    assert np.isclose(found["log_variance_ratio"], np.var(logs[20:], axis=0).sum() / np.var(logs[:20], axis=0).sum())


def test_a_set_against_itself_and_the_published_sampler_s_fault():
    x = simulate_spd("mixture", 600, 1).values
    first, second = sample_of(x[:300]), sample_of(x[300:])
    found = compare(first, second)
    assert 0.8 < found["log_variance_ratio"] < 1.25 and found["coverage"] > 0.9 and found["precision"] > 0.8
    z = second.z
    shrunk = sample_of(from_coordinates(z.mean(axis=0) + 0.1 * (z - z.mean(axis=0))))  # its noise is divided by 10
    assert compare(first, shrunk)["log_variance_ratio"] < 0.02
    assert np.isclose(total_log_variance(shrunk.z), 0.01 * total_log_variance(z))


@pytest.mark.parametrize(("last", "steps", "divisor", "left"), [(0.08, 200, 10, 0.01026), (0.4, 50, 30, 0.00112)])
def test_the_published_sampler_leaves_little_variance(last, steps, divisor, left):
    """Its reverse step on unit variance with a perfect network is v <- (1 - beta) v + beta / r^2, from T - 1 to 1."""
    variance = 1.0
    for beta in np.linspace(1e-4, last, steps)[:0:-1]:
        variance = (1 - beta) * variance + beta / divisor**2
    assert np.isclose(variance, left, rtol=1e-2)
    z = coordinates(simulate_spd("lognormal", 600, 1).values)
    mean, _ = lognormal_moments(3)
    drawn = sample_of(from_coordinates(mean + math.sqrt(variance) * (z[300:] - mean)))
    ratio = compare(sample_of(from_coordinates(z[:300])), drawn)["log_variance_ratio"]
    assert np.isclose(ratio, left, rtol=0.25)
