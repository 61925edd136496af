"""Linear measurements against their matrices: forward, adjoint, and the solve with a variance of each pixel."""

import numpy as np
import pytest

from core.diffusion.measurements import Blur, Downscale, Mask, centred_psf, conjugate_gradients, gaussian_psf

SIZE = (6, 8)
PSF = centred_psf(np.random.default_rng(0).random((3, 4)), SIZE)
MEASUREMENTS = {
    "gaussian": Blur(gaussian_psf(1.3, SIZE)),
    "psf": Blur(PSF),
    "downscale": Downscale(2),
    "mask": Mask(np.random.default_rng(1).random(SIZE) < 0.6),
}


def matrix(operator):
    """A of one channel, (h w, H W)."""
    return operator.forward(np.eye(48).reshape(48, *SIZE, 1)).reshape(48, -1).T


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_adjoint_is_the_transposed_matrix_in_every_channel(name):
    operator, rng = MEASUREMENTS[name], np.random.default_rng(2)
    x = rng.standard_normal((3, *SIZE, 2))
    y = rng.standard_normal(operator.forward(x).shape)
    assert np.sum(operator.forward(x) * y, axis=(1, 2, 3)) == pytest.approx(
        np.sum(x * operator.adjoint(y), axis=(1, 2, 3))
    )
    assert operator.forward(x)[:, :, :, 1].reshape(3, -1) == pytest.approx(
        x[:, :, :, 1].reshape(3, -1) @ matrix(operator).T
    )


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("varied", (False, True))
def test_the_residual_is_weighed_by_the_inverse_of_its_covariance(name, varied):
    operator, rng = MEASUREMENTS[name], np.random.default_rng(3)
    variance = rng.uniform(0.01, 1, (2, *SIZE, 1)) if varied else 0.3
    a, noise = matrix(operator), 0.05
    y = operator.valid * rng.standard_normal(operator.forward(np.zeros((2, *SIZE, 1))).shape)
    found = operator.solve(y, variance, noise)
    for i in range(2):
        diagonal = np.broadcast_to(variance, (2, *SIZE, 1))[i].ravel()
        expected = np.linalg.solve(a @ np.diag(diagonal) @ a.T + noise**2 * np.eye(len(a)), y[i].ravel())
        assert found[i].ravel() == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.abs(expected).max())


def test_a_blur_wraps_around_and_keeps_the_centre_of_its_psf():
    point = np.zeros((1, *SIZE, 1))
    point[0, 5, 0] = 1
    shifted = np.zeros((3, 3))
    shifted[2, 1] = 4.0  # one row below the centre
    found = Blur(centred_psf(shifted, SIZE)).forward(point)
    assert found[0, 0, 0, 0] == pytest.approx(1) and np.abs(found).sum() == pytest.approx(1)
    assert Blur(centred_psf(np.ones((1, 1)), SIZE)).forward(point) == pytest.approx(point)
    psf = gaussian_psf(1.0, (16, 16))
    assert psf.sum() == pytest.approx(1) and psf[0, 1] / psf[0, 0] == pytest.approx(np.exp(-0.5))
    assert np.array_equal(psf, psf.T) and psf[3, 15] == pytest.approx(psf[13, 1])


def test_the_values_of_a_small_image_are_means():
    image = np.arange(48.0).reshape(1, *SIZE, 1)
    assert Downscale(2).forward(image)[0, :, :, 0][0] == pytest.approx([4.5, 6.5, 8.5, 10.5])


def test_conjugate_gradients_solve_each_image_whatever_the_others_are():
    rng = np.random.default_rng(4)
    square = rng.standard_normal((24, 24))
    system, right = square @ square.T + 0.1 * np.eye(24), rng.standard_normal((3, 4, 6, 1))
    right[1] *= 1e6
    right[2] = 0

    def product(v):
        return np.stack([system @ image.ravel() for image in v]).reshape(v.shape)

    found = conjugate_gradients(product, lambda v: v, right)
    assert found[2].max() == 0 and product(found) == pytest.approx(right, rel=1e-6, abs=1e-6)
    alone = [conjugate_gradients(product, lambda v: v, right[i : i + 1])[0] for i in range(3)]
    assert np.array_equal(found, np.stack(alone))
