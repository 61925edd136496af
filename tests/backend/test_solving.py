"""The twin's guided network against finite differences in float64: the residual's slope through the network."""

from functools import partial

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, SamplingConfig
from core.diffusion.measurements import Blur, Downscale, gaussian_psf
from core.diffusion.posterior import Observed, Posterior
from core.diffusion.process import make_process
from core.diffusion.samplers import grid_of, make_table
from core.images import intensity_and_slope
from core.networks.specs import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import FINITE_DIFFERENCE

MODEL = ModelConfig(
    (4, 6),
    1,
    2,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    block_out_channels=(8,),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_type=None,
)
PROCESS = make_process(ProcessConfig(40, beta_end=0.3, prediction="v", variance="learned", loss="hybrid"))
OPERATORS = {"blur": Blur(gaussian_psf(0.9, (4, 6))), "downscale": Downscale(2)}


@pytest.mark.parametrize(("name", "stretch"), [("blur", 0.0), ("downscale", 0.02)])
def test_dps_moves_the_state_down_the_slope_of_the_residual(backend, name, stretch):
    """-step d (|2 (y - A f(x_0))|^2) / d x_t / |2 (y - A f(x_0))|, by five points 1e-3 apart."""
    rng = np.random.default_rng(0)
    weights = {n: 0.3 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in param_specs(MODEL).items()}
    bound = backend.sampler.make_network(MODEL, weights, "float64").bind()
    config = SamplingConfig("ddpm", 8)
    table, levels = make_table(PROCESS, config), grid_of(PROCESS, config)
    row, operator, x = table.rows[0], OPERATORS[name], rng.standard_normal((2, 4, 6, 1))
    y = rng.random(operator.forward(x).shape)
    observed = Observed(operator, 0.1, partial(intensity_and_slope, stretch=stretch), "dps", 0.5)

    def pull_back(x, t, v):
        return bound.vector_jacobian(x, np.full(len(x), t), v)

    def residual(x):
        x_0 = row.p * x + row.q * bound.evaluate(x, np.full(len(x), row.t))[..., :1]
        return 2 * observed.residual(y, observed.intensity(x_0)[0])

    posterior = Posterior(observed, y, pull_back, table.rows, levels)
    posterior.network(x, row.t)
    moved = posterior.after(0, np.zeros_like(x), x)
    size = np.sqrt(np.sum(residual(x) ** 2, axis=(1, 2, 3)))
    for u in rng.standard_normal((3, *x.shape)):
        f = {k: np.sum(residual(x + k * 1e-3 * u) ** 2, axis=(1, 2, 3)) for k in (-2, -1, 1, 2)}
        slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / 12e-3
        require_close(np.sum(moved * u, axis=(1, 2, 3)), -0.5 * slope / size, FINITE_DIFFERENCE, "shift")
