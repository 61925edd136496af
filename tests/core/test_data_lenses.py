"""The simulator against closed forms, numerical quadrature and the published statistics of its preset."""

import dataclasses
import math

import numpy as np
import pytest

from core.data import lens_optics
from core.data.lenses import Parameters, brightness, simulate, simulator

RNG = np.random.default_rng(3)
X, Y = RNG.uniform(-2, 2, (2, 200))
NONE = np.zeros((0, 3))
PLAIN = Parameters(1.2, 0, 0, 0, 0, 0, 0, 0, 0, 0.3, 1.3, 0.8, 300.0)


def derivatives(deflection, step=1e-5):
    """Jacobian of a deflection by central differences: (xx, xy, yx, yy)."""
    (ax, ay), (bx, by) = deflection(X + step, Y), deflection(X - step, Y)
    (cx, cy), (dx, dy) = deflection(X, Y + step), deflection(X, Y - step)
    return (ax - bx) / (2 * step), (cx - dx) / (2 * step), (ay - by) / (2 * step), (cy - dy) / (2 * step)


def test_sis_and_point_mass_closed_forms():
    r = np.hypot(X, Y)
    ax, ay = lens_optics.sis(X, Y, 1.3)
    np.testing.assert_allclose([ax, ay], [1.3 * X / r, 1.3 * Y / r], rtol=1e-12)
    ax, ay = lens_optics.point_masses(X, Y, np.array([[0.5, -0.25, 0.7], [-1.0, 1.0, 0.1]]))
    u, v, p, q = X - 0.5, Y + 0.25, X + 1, Y - 1
    np.testing.assert_allclose(ax, 0.49 * u / (u**2 + v**2) + 0.01 * p / (p**2 + q**2), rtol=1e-11)
    np.testing.assert_allclose(ay, 0.49 * v / (u**2 + v**2) + 0.01 * q / (p**2 + q**2), rtol=1e-11)


@pytest.mark.parametrize("e, tolerance", [(0.0, 1e-14), (1e-12, 1e-11), (1e-6, 3e-6)])
def test_sie_becomes_sis(e, tolerance):
    ours, limit = lens_optics.sie(X, Y, 1.1, e, -e), lens_optics.sis(X, Y, 1.1)
    np.testing.assert_allclose(ours, limit, atol=tolerance)


@pytest.mark.parametrize("e1, e2", [(0.1, 0.0), (-0.1, 0.15), (0.0, -0.3)])
def test_sie_has_the_convergence_of_an_isothermal_ellipsoid(e1, e2):
    xx, xy, yx, yy = derivatives(lambda x, y: lens_optics.sie(x, y, 1.2, e1, e2))
    e, angle = math.hypot(e1, e2), 0.5 * math.atan2(e2, e1)
    q = (1 - e) / (1 + e)
    u, v = X * math.cos(angle) + Y * math.sin(angle), Y * math.cos(angle) - X * math.sin(angle)
    kappa = 1.2 / (2 * np.sqrt(q * u**2 + v**2 / q))  # elongated along the angle, area of the ellipse preserved
    np.testing.assert_allclose((xx + yy) / 2, kappa, rtol=1e-5)
    np.testing.assert_allclose(xy, yx, atol=1e-6)  # the deflection is a gradient


def test_shear_closed_form():
    xx, xy, yx, yy = derivatives(lambda x, y: lens_optics.shear(x, y, 0.1, -0.2))
    for got, expected in ((xx, 0.1), (xy, -0.2), (yx, -0.2), (yy, -0.1)):
        np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_rod_is_the_integral_of_points_along_it():
    nodes, weights = np.polynomial.legendre.leggauss(1000)
    theta_v, length, angle = 0.4, 0.5, 0.7
    masses = np.stack([nodes * length * math.cos(angle), nodes * length * math.sin(angle)], axis=1)
    points = np.column_stack([masses, theta_v * np.sqrt(weights / 2)])
    along = np.abs(X * math.cos(angle) + Y * math.sin(angle))
    away = (np.abs(Y * math.cos(angle) - X * math.sin(angle)) > 0.05) | (along > 0.6)
    x, y = X[away], Y[away]
    np.testing.assert_allclose(
        lens_optics.rod(x, y, theta_v, length, angle), lens_optics.point_masses(x, y, points), rtol=1e-9, atol=1e-12
    )
    far = lens_optics.rod(100 * x + 100, 100 * y, theta_v, length, angle)
    np.testing.assert_allclose(
        far, lens_optics.point_masses(100 * x + 100, 100 * y, np.array([[0, 0, theta_v]])), atol=2e-5
    )
    assert np.isfinite(lens_optics.rod(np.array([0.0, 0.5, -0.5]), np.zeros(3), 0.1, 0.5, 0.0)).all()


@pytest.mark.parametrize("n", [1.0, 1.3, 4.0])
def test_sersic_half_of_the_light_is_inside_its_radius(n):
    r = np.linspace(0, 60, 600_001) ** 2 / 60  # finer in the middle
    light = lens_optics.sersic(r, np.zeros_like(r), 0.8, 0.45, n, 0.0, 0.0) * 2 * math.pi * r
    cumulated = np.concatenate([[0], np.cumsum((light[1:] + light[:-1]) / 2 * np.diff(r))])
    assert np.interp(0.45, r, cumulated) / cumulated[-1] == pytest.approx(0.5, abs=3e-3)  # b_n is approximate
    b = 1.9992 * n - 0.3271
    total = 2 * math.pi * n * 0.45**2 * 0.8 * math.exp(b) * b ** (-2 * n) * math.gamma(2 * n)
    assert cumulated[-1] == pytest.approx(total, rel=1e-3)


def test_sersic_ellipse():
    e, q = 0.1, 0.9 / 1.1
    on = [(0.45 / math.sqrt(q), 0), (0, 0.45 * math.sqrt(q))]  # product-average radius r_e, long axis along x
    for x, y in on:
        assert lens_optics.sersic(np.array(x), np.array(y), 0.8, 0.45, 1.3, e, 0.0) == pytest.approx(0.8, rel=1e-12)


def test_flux_is_conserved_where_nothing_deflects():
    size, pixel = 200, 0.05
    side = (np.arange(size) + 0.5 - size / 2) * pixel
    p = dataclasses.replace(PLAIN, theta_e=0.0)
    light = brightness(side[None], side[:, None], p, NONE)
    b, n = 1.9992 * 1.3 - 0.3271, 1.3
    total = 2 * math.pi * n * 0.3**2 * 0.8 * math.exp(b) * b ** (-2 * n) * math.gamma(2 * n)
    assert light.sum() * pixel**2 == pytest.approx(total, rel=2e-3)
    blur = lens_optics.blur_matrix(size, 1, pixel, 0.1)
    assert (blur @ light @ blur.T).sum() == pytest.approx(light.sum(), rel=1e-6)


def test_a_source_behind_the_lens_is_a_ring_of_the_einstein_radius():
    r = np.linspace(0.01, 3, 3000)
    light = brightness(r, np.zeros_like(r), PLAIN, NONE)
    assert r[np.argmax(light)] == pytest.approx(1.2, abs=1e-3)
    # A source at b has images at b + theta_e and b - theta_e, of the source's own surface brightness.
    p = dataclasses.replace(PLAIN, source_x=0.3)
    peak = lens_optics.sersic(np.array(0.0), np.array(0.0), 0.8, 0.3, 1.3, 0, 0)
    np.testing.assert_allclose(brightness(np.array([1.5, -0.9]), np.zeros(2), p, NONE), peak, rtol=1e-9)


def test_blur_is_an_integrated_gaussian_then_an_average():
    for size, factor, pixel, sigma in ((64, 3, 7.5 / 64, 0.1), (150, 1, 0.05, 0.037)):
        matrix, fine = lens_optics.blur_matrix(size, factor, pixel, sigma), pixel / factor
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-13)
        row = size // 2
        places = (np.arange(size * factor) - (row * factor + (factor - 1) / 2)) * fine
        assert matrix[row] @ places == pytest.approx(0, abs=1e-12)
        # Variances add: the Gaussian, the fine pixel that the taps integrate over, the rays of a coarse pixel.
        rays = np.var(np.arange(factor)) * fine**2
        assert matrix[row] @ places**2 == pytest.approx(sigma**2 + fine**2 / 12 + rays, rel=1e-4)


def test_cosmology_and_mass_scale_from_si_constants():
    z = np.linspace(0, 1, 20_001)
    hubble = 299792.458 / 70 / np.sqrt(0.3 * (1 + z) ** 3 + 0.7)
    comoving = np.concatenate([[0], np.cumsum((hubble[1:] + hubble[:-1]) / 2 * np.diff(z))])
    near, far = np.interp(0.5, z, comoving), comoving[-1]
    np.testing.assert_allclose(
        [near / 1.5, far / 2, (far - near) / 2], [lens_optics.D_L, lens_optics.D_S, lens_optics.D_LS], rtol=1e-5
    )
    mpc, msun = 3.0856775814913673e22, 1.98841e30
    theta = math.sqrt(
        4 * 6.6743e-11 * 1e12 * msun / 299792458**2 * lens_optics.D_LS / (lens_optics.D_L * lens_optics.D_S) / mpc
    )
    assert lens_optics.einstein_radius(1e12) == pytest.approx(math.degrees(theta) * 3600, rel=2e-4)


def test_preset_lensing_has_its_published_statistics():
    """The real set's mean .0615, deviation .1164 and median .017 at 150 pixels, each to 10 %."""
    images, _, _ = simulate("lensing", 90, (150, 150), seed=5)
    found = (images.mean(), images.std(), np.median(images))
    np.testing.assert_allclose(found, (0.0615, 0.1164, 0.017), rtol=0.1)
    assert images.min() == 0 and images.max() == 1


def test_parameters_lie_in_the_presets_ranges():
    _, labels, p = simulate("lensing", 300, (8, 8), seed=2, field_of_view=2.0)
    assert labels.tolist() == [0, 1, 2] * 100 and set(p) == {f.name for f in dataclasses.fields(Parameters)}
    q = (1 - np.hypot(p["source_e1"], p["source_e2"])) / (1 + np.hypot(p["source_e1"], p["source_e2"]))
    uniform = ((p["theta_e"], 0.9, 1.5), (p["gamma1"], 0, 0.25), (p["source_amplitude"], 0.7, 0.9), (q, 0.7, 1))
    for values, low, high in (*uniform, (np.hypot(p["source_x"], p["source_y"]), 0, 0.5)):
        assert low <= values.min() < low + 0.05 * (high - low) and high - 0.05 * (high - low) < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=5 * (high - low) / math.sqrt(12 * 300))
    sphere, vort = labels == 1, labels == 2
    np.testing.assert_allclose(p["subhalo_theta"][sphere], 0.1 * p["theta_e"][sphere], rtol=1e-12)
    np.testing.assert_allclose(p["vortex_theta"][vort], 0.1 * p["theta_e"][vort], rtol=1e-12)
    assert not p["subhalo_theta"][~sphere].any() and not p["vortex_theta"][~vort].any()


def test_model_1_parameters():
    images, labels, p = simulate("model-1", 60, (16, 16), seed=2)
    assert images.min() == 0 and images.max() == 1 and set(p["theta_e"]) == {1.28} and set(p["gamma1"]) == {0.05}
    assert np.abs(p["source_x"]).max() <= 0.35 and ((p["exposure"] >= 1e3) & (p["exposure"] <= 10**3.5)).all()
    total = p["subhalo_theta"][labels == 1] ** 2 / lens_optics.einstein_radius(1.0) ** 2  # solar masses
    assert total.min() > 25e6 and total.max() < 25e10
    # Mean mass of dN/dm ~ m^-1.9 from 1e6 to 1e10: the ratio of two power integrals.
    mean = (0.9 / 0.1) * (1e10**0.1 - 1e6**0.1) / (1e6**-0.9 - 1e10**-0.9)
    many = simulate("model-1", 800, (2, 2), seed=1, classes=("sphere",), field_of_view=0.1)[2]["subhalo_theta"] ** 2
    assert many.mean() / lens_optics.einstein_radius(1.0) ** 2 == pytest.approx(25 * mean, rel=0.3)
    length = p["vortex_half_length"][labels == 2]
    assert length.min() >= 0.03 and length.max() <= 3


def test_an_image_depends_on_seed_and_index_alone():
    images, _, p = simulate("lensing", 9, (16, 16), seed=4)
    fewer, _, _ = simulate("lensing", 4, (16, 16), seed=4, progress=list)
    np.testing.assert_array_equal(images[:4], fewer)
    image, label, drawn = simulator("lensing", (16, 16), seed=4)(7)
    np.testing.assert_array_equal(image, images[7])
    assert label == 1 and drawn.theta_e == p["theta_e"][7]
    assert not np.array_equal(images[0], simulate("lensing", 1, (16, 16), seed=5)[0][0])
    # The lens and the source of an index are the same whatever its substructure, and so is nearly all of the image.
    other, _, q = simulate("lensing", 9, (16, 16), seed=4, classes=("vort",))
    np.testing.assert_array_equal(p["theta_e"], q["theta_e"])
    assert 0 < np.abs(images[0] - other[0]).mean() < 0.02


def test_a_change_is_made_to_the_lens_as_drawn_and_substructure_follows_it():
    images, _, p = simulate("lensing", 6, (24, 24), seed=4)
    same, _, _ = simulate("lensing", 6, (24, 24), seed=4, change=lambda drawn: drawn)
    np.testing.assert_array_equal(images, same)

    def larger(drawn):
        return dataclasses.replace(drawn, theta_e=drawn.theta_e + 0.2)

    changed, _, q = simulate("lensing", 6, (24, 24), seed=4, change=larger)
    np.testing.assert_allclose(q["theta_e"], p["theta_e"] + 0.2, rtol=1e-15)
    np.testing.assert_array_equal(q["source_x"], p["source_x"])
    np.testing.assert_allclose(q["vortex_theta"][2::3], 0.1 * q["theta_e"][2::3], rtol=1e-12)
    assert np.abs(changed - images).mean() > 0.02


def test_height_and_width_may_differ():
    wide, square = simulator("lensing", (40, 64))(0)[0], simulator("lensing", (40, 40))(0)[0]
    assert wide.shape == (40, 64, 1)
    assert np.abs(wide[:, 12:52] - square).mean() < 0.02  # only the noise is another


def test_the_stream_is_pinned():
    """NumPy does not promise equal streams between versions; a change would alter every simulated data set."""
    image, _, drawn = simulator("lensing", (32, 32), seed=1)(1)
    np.testing.assert_allclose([drawn.theta_e, drawn.source_x], PINNED[:2], rtol=1e-12)
    np.testing.assert_allclose([image[16, 8, 0], image[10, 10, 0], float(image.sum())], PINNED[2:], rtol=1e-5)


PINNED = (1.0067753129943968, -0.01156328617918103, 0.15118397772312164, 0.06830601394176483, 73.55646514892578)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"preset": "model-9"}, "preset = 'model-9'"),
        ({"count": 0}, "count = 0"),
        ({"size": (1, 8)}, "at least 2 pixels"),
        ({"classes": ()}, "one or more of no, sphere, vort"),
        ({"classes": ("axion",)}, "one or more of no, sphere, vort"),
        ({"field_of_view": 0.0}, "above 0 arcsec"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(**({"preset": "lensing", "count": 1, "size": (8, 8)} | change))


def test_an_image_without_light_is_refused():
    with pytest.raises(ValueError, match="shows no light"):
        simulate("model-1", 1, (4, 4), change=lambda p: dataclasses.replace(p, exposure=1e-12))
