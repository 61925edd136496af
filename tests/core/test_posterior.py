"""The guidance of posterior sampling against finite differences and dense matrices, with and without a stretch."""

from functools import partial

import numpy as np
import pytest

from core.config import ProcessConfig, SamplingConfig
from core.diffusion.grids import levels_at
from core.diffusion.measurements import Blur, Downscale, Mask, gaussian_psf
from core.diffusion.posterior import Observed, Posterior, unit_variance
from core.diffusion.process import make_process
from core.diffusion.samplers import grid_of, make_table
from core.images import from_unit, intensity_and_slope, to_unit

SIZE = (4, 6)
SHAPE = (2, *SIZE, 1)
PROCESS = make_process(ProcessConfig(50, beta_end=0.3, prediction="v"))
LEVEL = levels_at(PROCESS, np.array([20]))[0]
OPERATORS = {
    "blur": Blur(gaussian_psf(0.8, SIZE)),
    "downscale": Downscale(2),
    "mask": Mask(np.arange(24).reshape(SIZE) % 4 > 0),
}


def observed(name, stretch, **how):
    return Observed(OPERATORS[name], 0.1, partial(intensity_and_slope, stretch=stretch), **how)


def given(name):
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.95, 0.95, SHAPE)
    return x, rng.uniform(0, 1, OPERATORS[name].forward(x).shape)


def slopes(function, x, h=1e-5):
    """d function(x) / d x by central differences, (B, ...) for a function that gives (B,)."""
    result = np.zeros_like(x)
    for place in np.ndindex(x.shape[1:]):
        moved = np.zeros_like(x)
        moved[:, *place] = h
        result[:, *place] = (function(x + moved) - function(x - moved)) / (2 * h)
    return result


@pytest.mark.parametrize("stretch", (0.0, 0.02, 0.5))
def test_the_intensity_is_to_unit_s_without_its_clipping_and_the_slope_is_its_derivative(stretch):
    x = np.linspace(-1, 1, 41)
    intensity, slope = intensity_and_slope(x, stretch)
    assert intensity == pytest.approx(to_unit(x, stretch), abs=1e-15)
    assert from_unit(intensity, stretch) == pytest.approx(x, abs=1e-12)
    wide = np.array([-1.7, -1.2, -0.3, 0.4, 1.3, 2.0])
    numeric = [(intensity_and_slope(wide + h, stretch)[0]) for h in (1e-6, -1e-6)]
    assert (numeric[0] - numeric[1]) / 2e-6 == pytest.approx(intensity_and_slope(wide, stretch)[1] * np.ones(6))
    assert np.all(np.asarray(slope) > 0)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("stretch", (0.0, 0.02))
def test_dps_follows_the_residual_s_square_over_its_size(name, stretch):
    x, y = given(name)
    found = observed(name, stretch, method="dps")

    def square(x_0):
        residual = 2 * found.operator.valid * (y - found.operator.forward(intensity_and_slope(x_0, stretch)[0]))
        return np.sum(residual**2, axis=(1, 2, 3))

    expected = slopes(square, x) / np.sqrt(square(x))[:, None, None, None]
    assert found.pull(y, x, LEVEL) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("stretch", (0.0, 0.02))
def test_pigdm_follows_the_log_density_of_the_measurement(name, stretch):
    """log N(y; A f(x_0), A D r^2 D A^T + s^2), whose covariance is kept while x_0 changes, by dense matrices."""
    x, y = given(name)
    found = observed(name, stretch)
    a = found.operator.forward(np.eye(24).reshape(24, *SIZE, 1)).reshape(24, -1).T
    d = np.broadcast_to(intensity_and_slope(x, stretch)[1], SHAPE).reshape(2, 24)
    inverse = [np.linalg.inv((a * (unit_variance(LEVEL) * d[i] ** 2)) @ a.T + 0.01 * np.eye(len(a))) for i in (0, 1)]

    def log_density(x_0):
        residual = found.residual(y, intensity_and_slope(x_0, stretch)[0]).reshape(2, -1)
        return np.array([-residual[i] @ inverse[i] @ residual[i] / 2 for i in (0, 1)])

    assert found.pull(y, x, LEVEL) == pytest.approx(slopes(log_density, x), rel=1e-6, abs=1e-7)


def curved(x, t, v):
    """A network whose Jacobian is known: sin, pixel by pixel."""
    output = np.sin(x)
    return output, v(output) * np.cos(x)


@pytest.mark.parametrize("method", ("pigdm", "dps"))
def test_a_row_adds_the_gradient_by_the_chain_rule(method):
    """The shift of x_0 or of the next state is a slope of the potential by x_t, through x_0 = p x_t + q output."""
    config = SamplingConfig("ddpm", 10)
    table, levels = make_table(PROCESS, config), grid_of(PROCESS, config)
    x, y = given("downscale")
    how = observed("downscale", 0.02, method=method, step=0.7)
    guided = Posterior(how, y, curved, table.rows, levels)
    row, level = table.rows[0], levels[0]
    output, moved = guided.network(x, row.t), guided.after(0, np.zeros(SHAPE), x)
    x_0 = row.p * x + row.q * np.sin(x)
    # The vector v stays the same while x_t changes, so that v^T x_0 has the gradient J^T v.
    v = how.pull(y, x_0, level)
    gradient = slopes(lambda z: np.sum(v * (row.p * z + row.q * np.sin(z)), axis=(1, 2, 3)), x)
    if method == "dps":
        assert np.array_equal(output, np.sin(x)) and moved == pytest.approx(-0.7 * gradient, rel=1e-6)
    else:
        found = row.p * x + row.q * output
        assert found == pytest.approx(x_0 + level.noise**2 / level.signal * gradient, rel=1e-6)
        assert np.array_equal(moved, np.zeros(SHAPE))


def test_a_level_without_signal_is_not_guided_by_pigdm():
    process = make_process(ProcessConfig(50, schedule="flow", prediction="flow"))
    config = SamplingConfig("ddim", 10)
    table, levels = make_table(process, config), grid_of(process, config)
    x, y = given("blur")
    guided = Posterior(observed("blur", 0.0), y, curved, table.rows, levels)
    assert levels[0].signal == 0 and np.array_equal(guided.network(x, table.rows[0].t), np.sin(x))
    assert not np.allclose(guided.network(x, table.rows[1].t), np.sin(x))


def test_other_channels_of_the_output_and_the_dtype_stay():
    config = SamplingConfig("ddpm", 10)
    table, levels = make_table(PROCESS, config), grid_of(PROCESS, config)
    x, y = given("mask")
    x = x.astype(np.float32)

    def two(x, t, v):
        output = np.concatenate([np.sin(x), np.cos(x)], axis=-1)
        pulled = v(output)
        assert pulled.dtype == np.float32 and not pulled[..., 1:].any()
        return output, pulled[..., :1] * np.cos(x)

    guided = Posterior(observed("mask", 0.02), y, two, table.rows, levels)
    output = guided.network(x, table.rows[0].t)
    assert output.dtype == np.float32 and np.array_equal(output[..., 1:], np.cos(x))
    alone = Posterior(observed("mask", 0.02), y, curved, table.rows, levels).network(x, table.rows[0].t)
    assert np.array_equal(output[..., :1], alone)
