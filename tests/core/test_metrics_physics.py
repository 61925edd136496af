"""Pixel, profile and lens measures and their distances on synthetic images whose answer is known."""

import numpy as np
import pytest
import scipy.stats

from core.metrics import distances, physics, pixels, profiles


def rng(key):
    return np.random.Generator(np.random.Philox(key=key))


def grid(height, width):
    y, x = np.mgrid[:height, :width].astype(float)
    return y - (height - 1) / 2, x - (width - 1) / 2


def ring(radius, height=64, width=64, thickness=2.0, amplitude=0.8):
    y, x = grid(height, width)
    return (amplitude * np.exp(-0.5 * ((np.hypot(y, x) - radius) / thickness) ** 2))[None, ..., None]


def ellipse(sigma_major, q, angle, size=65, amplitude=0.9):
    y, x = grid(size, size)
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    return (amplitude * np.exp(-0.5 * ((u / sigma_major) ** 2 + (v / (q * sigma_major)) ** 2)))[None, ..., None]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 64), (48, 80)])
@pytest.mark.parametrize("radius", [9.0, 12.4, 18.7])
def test_radius_of_a_drawn_ring(height, width, radius):
    images = ring(radius, height, width)
    assert physics.ring_radius(images)[0] == pytest.approx(radius, abs=0.15)
    assert physics.ring_radius(images, pixel_scale=0.05)[0] == pytest.approx(0.05 * radius, abs=0.0075)
    noisy = np.clip(0.1 + 0.9 * images + 0.01 * rng(1).standard_normal(images.shape), 0, 1)
    assert physics.ring_radius(noisy)[0] == pytest.approx(radius, abs=0.3)


@pytest.mark.parametrize(("q", "angle"), [(1.0, 0.0), (0.8, 0.3), (0.5, 1.2), (0.5, 2.5)])
def test_ellipticity_of_a_gaussian_of_known_axis_ratio(q, angle):
    expected = (1 - q) / (1 + q)
    assert physics.ellipticity(ellipse(7.0, q, angle))[0] == pytest.approx(expected, abs=1e-3)
    noisy = ellipse(7.0, q, angle) * 0.8 + 0.1 + 0.005 * rng(2).standard_normal((1, 65, 65, 1))
    assert physics.ellipticity(noisy)[0] == pytest.approx(expected, abs=0.02)


def test_flux_and_peak_of_a_gaussian():
    image = ellipse(4.0, 0.5, 0.0, amplitude=0.7)
    assert physics.total_flux(image)[0] == pytest.approx(2 * np.pi * 4 * 2 * 0.7, rel=1e-6)
    assert physics.peak(image)[0] == pytest.approx(0.7, rel=1e-12)
    two = np.concatenate([image, 0 * image], axis=-1)  # channels are averaged
    assert physics.peak(two)[0] == pytest.approx(0.35, rel=1e-12)


def test_sky_noise_of_white_noise_and_its_robustness():
    images = 0.3 + 0.02 * rng(3).standard_normal((40, 64, 48, 1))
    assert physics.sky_noise(images).mean() == pytest.approx(0.02, rel=0.01)
    images[:, 0, :8] = 1.0  # a star on the edge
    assert physics.sky_noise(images).mean() == pytest.approx(0.02, rel=0.03)
    images[:, 20:40, 10:30] = 1.0  # the middle does not count
    assert physics.sky_noise(images).mean() == pytest.approx(0.02, rel=0.03)


def test_an_image_without_signal_has_no_ring_and_no_shape():
    flat = np.full((2, 16, 16, 1), 0.25)
    assert np.isnan(physics.ring_radius(flat)).all() and np.isnan(physics.ellipticity(flat)).all()
    assert (physics.sky_noise(flat) == 0).all() and physics.total_flux(flat)[0] == 64
    point = np.zeros((1, 16, 16, 1))
    point[0, 5, 9] = 1.0
    assert physics.ellipticity(point)[0] == 0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 32), (32, 49)])
def test_power_of_white_noise_is_its_variance(height, width):
    images = 0.5 + 0.05 * rng(4).standard_normal((400, height, width, 1))
    frequency, power = profiles.power_spectrum(images)
    assert len(frequency) == min(height, width) // 2 and power.shape == (400, len(frequency))
    assert frequency[-1] == pytest.approx(0.5, abs=0.5 / min(height, width))
    standard_error = power.std(axis=0) / np.sqrt(400)
    assert (np.abs(power.mean(axis=0) - 0.05**2) < 5 * standard_error).all()


@pytest.mark.parametrize(("height", "width"), [(12, 12), (11, 16), (16, 11)])
def test_power_equals_the_ring_means_of_the_whole_transform(height, width):
    images = rng(12).uniform(size=(3, height, width, 2))
    gray = images.mean(axis=-1)
    whole = np.abs(np.fft.fft2(gray - gray.mean(axis=(1, 2), keepdims=True))) ** 2 / (height * width)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
    side = min(height, width)
    rings = [np.abs(radius - j / side + 1e-12) <= 0.5 / side for j in range(1, side // 2 + 1)]
    frequency, power = profiles.power_spectrum(images)
    np.testing.assert_allclose(frequency, [radius[ring].mean() for ring in rings], rtol=1e-12)
    np.testing.assert_allclose(power, np.stack([whole[:, ring].mean(axis=1) for ring in rings], axis=1), rtol=1e-10)


def test_power_of_a_sine_lies_at_its_frequency_and_obeys_parseval():
    _, x = grid(40, 40)
    image = (0.5 + 0.3 * np.sin(2 * np.pi * 6 / 40 * x))[None, ..., None]
    frequency, power = profiles.power_spectrum(image)
    assert power[0].argmax() == 5 and frequency[5] == pytest.approx(6 / 40, rel=0.03)
    assert np.delete(power[0], 5).max() < 1e-20
    # All power, 0.3^2 / 2 a pixel, stands in two conjugate cells of the ring.
    fy, fx = np.meshgrid(np.fft.fftfreq(40), np.fft.fftfreq(40), indexing="ij")
    cells = (np.floor(np.hypot(fy, fx) * 40 + 0.5) == 6).sum()
    assert power[0, 5] * cells == pytest.approx(0.045 * 1600, rel=1e-12)
    assert profiles.power_spectrum(image, 0.05)[0] == pytest.approx(frequency / 0.05)


def test_radial_profile_of_a_cone_is_linear_in_the_mean_radius():
    y, x = grid(40, 61)
    image = (1 - np.hypot(y, x) / 50)[None, ..., None]
    radius, profile = profiles.radial_profile(image, pixel_scale=2.0)
    assert radius.shape == (20,)
    np.testing.assert_allclose(profile[0], 1 - radius / 100, rtol=1e-13)


def test_pixel_histograms():
    images = np.zeros((2, 4, 4, 1))
    images[0, :2] = 1.0
    images[1] = 0.5
    np.testing.assert_array_equal(pixels.pixel_histograms(images, bins=4), [[0.5, 0, 0, 0.5], [0, 0, 1, 0]])
    values = rng(5).uniform(size=(3, 9, 7, 2))
    for row, image in zip(pixels.pixel_histograms(values, 10), values, strict=True):
        np.testing.assert_allclose(row, np.histogram(image, 10, (0, 1))[0] / image.size)


def test_thumbnails_are_area_means():
    images = rng(6).uniform(size=(3, 32, 48, 2))
    blocks = images.reshape(3, 16, 2, 16, 3, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(pixels.thumbnails(images), blocks, rtol=1e-13)
    odd = rng(7).uniform(size=(1, 25, 10, 1))  # fractional: every 25 rows shared by 16
    small = pixels.thumbnails(odd)
    fine = np.repeat(odd, 16, axis=1).reshape(1, 16, 25, 10, 1).mean(axis=2)
    np.testing.assert_allclose(small, fine, rtol=1e-13)


def test_wasserstein_against_scipy_and_a_shift():
    a, b = rng(8).standard_normal(200), rng(9).exponential(size=300)
    assert distances.wasserstein(a, b) == pytest.approx(scipy.stats.wasserstein_distance(a, b), rel=1e-12)
    assert distances.wasserstein(a, a + 0.7) == pytest.approx(0.7, rel=1e-12)
    h = np.zeros(50)
    h[10] = 1
    assert distances.wasserstein_of_histograms(h, np.roll(h, 7), 0.02) == pytest.approx(0.14)
    with pytest.raises(ValueError, match="NaN"):
        distances.wasserstein(a, [np.nan])
    with pytest.raises(ValueError, match="same"):
        distances.wasserstein_of_histograms(h, h[1:], 0.02)


def test_nearest_against_brute_force_and_exact_copies(monkeypatch):
    monkeypatch.setattr(distances, "QUERY_BLOCK", 7)
    monkeypatch.setattr(distances, "TRAIN_BLOCK", 11)
    train = rng(10).uniform(size=(60, 5, 6, 2)).astype(np.float32)
    queries = rng(11).uniform(size=(20, 5, 6, 2)).astype(np.float32)
    queries[3], queries[17] = train[59], train[0]
    distance, index = distances.nearest_images(queries, train)
    brute = np.sqrt(((queries[:, None].astype(float) - train) ** 2).sum(axis=(2, 3, 4)))
    np.testing.assert_array_equal(index, brute.argmin(axis=1))
    np.testing.assert_allclose(distance, brute.min(axis=1), rtol=1e-12)
    assert distance[3] == 0 and distance[17] == 0 and index[3] == 59 and index[17] == 0
    with pytest.raises(ValueError, match="must be"):
        distances.nearest_images(queries, train[:, :4])
    with pytest.raises(ValueError, match="no rows"):
        distances.nearest(np.zeros((1, 2)), np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((3, 8, 8)), r"must be \(N, H, W, C\).*\[\.\.\., None\]"),
        (np.zeros((3, 8, 2, 1)), "at least 4"),
        (np.zeros((0, 8, 8, 1)), "must be"),
        (np.zeros((3, 8, 8, 1), np.uint8), "uint8.*divide"),
        (np.full((3, 8, 8, 1), np.nan), "image 0 has NaN"),
        (np.full((3, 8, 8, 1), -0.5), r"\(x \+ 1\) / 2"),
        (np.full((3, 8, 8, 1), 1.5), r"values in \[1.5, 1.5\]"),
    ],
)
def test_images_that_are_refused(images, words):
    for function in (physics.peak, pixels.thumbnails, profiles.power_spectrum):
        with pytest.raises(ValueError, match=words):
            function(images)


def test_options_that_are_refused():
    images = np.zeros((1, 8, 8, 1))
    for call in (
        lambda: physics.ring_radius(images, 0.0),
        lambda: profiles.power_spectrum(images, float("nan")),
        lambda: pixels.pixel_histograms(images, 0),
        lambda: pixels.thumbnails(images, 0),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()
