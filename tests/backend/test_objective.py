"""The twin's loss against the objective by hand."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from core.config import ModelConfig, ProcessConfig
from core.diffusion.bound import bound_columns
from core.diffusion.process import coefficients, make_process
from core.networks.specs import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import BOUND_FLOAT64, LOSS_FLOAT64, TAIL_FLOAT32, TAIL_FLOAT64
from tests.numpy_unet import NumpyUNet

CONFIG = ModelConfig(
    (4, 6),
    2,
    2,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    block_out_channels=(8,),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_type=None,
    num_class_embeds=3,
)
T = 40
# The paper's formulas, with signal^2 = alphas_cumprod: what the network should output, and the weight of its error.
TARGETS = {
    "eps": lambda x_0, eps, abar: eps,
    "x0": lambda x_0, eps, abar: x_0,
    "v": lambda x_0, eps, abar: np.sqrt(abar) * eps - np.sqrt(1 - abar) * x_0,
    "flow": lambda x_0, eps, abar: eps - x_0,
    "edm": lambda x_0, eps, abar: (2 * np.sqrt(1 - abar) * x_0 - np.sqrt(abar) / 2 * eps) / np.sqrt(1 - 0.75 * abar),
}
WEIGHTS = {
    ("simple", "eps"): lambda snr: 1.0,
    ("simple", "x0"): lambda snr: 1.0,
    ("simple", "v"): lambda snr: 1.0,
    ("min_snr", "eps"): lambda snr: min(snr, 5) / snr,
    ("min_snr", "x0"): lambda snr: min(snr, 5),
    ("min_snr", "v"): lambda snr: min(snr, 5) / (snr + 1),
    ("min_snr", "flow"): lambda snr: min(snr, 5) / (1 + np.sqrt(snr)) ** 2,
    ("p2", "eps"): lambda snr: 1 / (1 + snr),
    ("p2", "v"): lambda snr: snr / (1 + snr) ** 2,
    ("edm", "x0"): lambda snr: snr + 4,
    ("edm", "edm"): lambda snr: 1.0,
}


def weights():
    rng = np.random.default_rng(0)
    return {n: 0.3 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in param_specs(CONFIG).items()}


@pytest.fixture(scope="module")
def network(backend):
    return backend.weights.build_unet(CONFIG, weights(), "float64")


@pytest.mark.parametrize("kind", WEIGHTS, ids="-".join)
def test_the_loss_by_hand(backend, network, kind):
    loss_weight, prediction = kind
    rng = np.random.default_rng(1)
    x_0, eps = rng.uniform(-1, 1, (5, 4, 6, 2)), rng.standard_normal((5, 4, 6, 2))
    t, labels = np.array([0, 3, 12, 25, 39]), np.array([2, 0, 1, 1, 0])
    process = make_process(ProcessConfig(T, prediction=prediction, loss_weight=loss_weight))
    batch = {"x_0": x_0, "eps": eps, "t": t, "labels": labels, **coefficients(process, t, "float64")}
    found = backend.objective.losses(network, {name: backend.tensor(value) for name, value in batch.items()})

    expected = []
    for i in range(5):
        abar = np.prod(1 - np.linspace(1e-4, 0.02, T)[: t[i] + 1])
        x_t = np.sqrt(abar) * x_0[i] + np.sqrt(1 - abar) * eps[i]
        output = NumpyUNet(CONFIG, weights())(x_t[None], float(t[i]), labels[i : i + 1])[0]
        error = (output - TARGETS[prediction](x_0[i], eps[i], abar)) ** 2
        expected.append(WEIGHTS[kind](abar / (1 - abar)) * error.mean())
    require_close(backend.array(found), np.array(expected), LOSS_FLOAT64, "losses")


LEARNED = dataclasses.replace(CONFIG, out_channels=4)


def learned_weights():
    rng = np.random.default_rng(7)
    return {n: 0.3 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in param_specs(LEARNED).items()}


def bits(x_0, t, x_t, output, process):
    """A term of the bound at every pixel: Ho et al. 2020, eq. 5 and 13, with Nichol & Dhariwal 2021, eq. 15."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
    beta, before = np.linspace(1e-4, 0.02, T)[t], abar[t - 1] if t else 1.0
    tilde = np.append(1, abar)[:-1]
    tilde = (1 - tilde) / (1 - abar) * np.linspace(1e-4, 0.02, T)
    share = (output[..., 2:] + 1) / 2
    variance = np.exp(share * np.log(beta) + (1 - share) * np.log(tilde[max(t, 1)]))
    x0_hat = (x_t - np.sqrt(1 - abar[t]) * output[..., :2]) / np.sqrt(abar[t])

    def mean(x):
        return np.sqrt(before) * beta / (1 - abar[t]) * x + np.sqrt(1 - beta) * (1 - before) / (1 - abar[t]) * x_t

    if t:
        ratio = tilde[t] / variance
        nats = (ratio - 1 - np.log(ratio) + (mean(x_0) - mean(x0_hat)) ** 2 / variance) / 2
        return nats / np.log(2)
    low = np.where(x_0 < -0.999, -np.inf, (x_0 - 1 / 255 - x0_hat) / np.sqrt(variance))
    high = np.where(x_0 > 0.999, np.inf, (x_0 + 1 / 255 - x0_hat) / np.sqrt(variance))
    smaller = np.where(
        low + high > 0, stats.norm.sf(low) - stats.norm.sf(high), stats.norm.cdf(high) - stats.norm.cdf(low)
    )
    return -np.log2(smaller)


@pytest.mark.parametrize("kind", ("hybrid", "vlb"))
def test_the_bound_by_hand(backend, kind):
    """At both end levels and between them, with black, white and mid-grey pixels."""
    rng = np.random.default_rng(2)
    eps, t, labels = rng.standard_normal((5, 4, 6, 2)), np.array([0, 0, 1, 20, 39]), np.array([2, 0, 1, 1, 0])
    x_0 = rng.choice([-1.0, 1.0, 0.2, -0.4], (5, 4, 6, 2))
    process = make_process(ProcessConfig(T, variance="learned", loss=kind))
    columns = {name: column[t] for name, column in bound_columns(process).items()}
    batch = {"x_0": x_0, "eps": eps, "t": t, "labels": labels, **coefficients(process, t, "float64"), **columns}
    network = backend.weights.build_unet(LEARNED, learned_weights(), "float64")
    found = backend.objective.losses(network, {n: backend.tensor(v) for n, v in batch.items()}, kind)
    expected = []
    for i in range(5):
        abar = np.prod(1 - np.linspace(1e-4, 0.02, T)[: t[i] + 1])
        x_t = np.sqrt(abar) * x_0[i] + np.sqrt(1 - abar) * eps[i]
        output = NumpyUNet(LEARNED, learned_weights())(x_t[None], float(t[i]), labels[i : i + 1])[0]
        bound = bits(x_0[i], t[i], x_t, output, process).mean() * T
        simple = ((output[..., :2] - eps[i]) ** 2).mean()
        expected.append(simple + 0.001 * bound if kind == "hybrid" else bound)
    require_close(backend.array(found), np.array(expected), BOUND_FLOAT64, "losses")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", TAIL_FLOAT64), ("float32", TAIL_FLOAT32)])
def test_a_tail_of_the_normal_distribution_is_right_from_end_to_end(backend, dtype, tolerance):
    """Against SciPy, also where erfc in float32 is 0; each z alone, since the logarithms grow as z^2."""
    z = np.concatenate([np.linspace(-9, 11.9, 60), [11.999, 12.0, 12.001], np.geomspace(12.1, 1e4, 40)]).astype(dtype)
    found = backend.array(backend.objective.log_tail(backend.tensor(z)))
    expected = stats.norm.logsf(z.astype(np.float64))
    assert found.dtype == dtype and np.isfinite(found).all()
    assert np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1)) < tolerance


@pytest.mark.parametrize("dtype", ("float64", "float32"))
def test_the_bound_is_finite_far_from_the_pixel(backend, dtype):
    """Bound and gradients, for a prediction 200 standard deviations away from the pixel."""
    process = make_process(ProcessConfig(T, variance="learned", loss="vlb"))
    t = np.array([0, 1, 39])
    columns = {n: backend.tensor(c[t].astype(dtype)) for n, c in bound_columns(process).items()}
    shape = (3, 1, 1, 2)
    x_0, fraction = (np.full(shape, value).astype(dtype) for value in (0.0, -1.0))
    q = bound_columns(process)["x0_from_output"][t][:, None, None, None]
    apart = np.array([2.0, -2.0]) / q * np.ones(shape)
    found = backend.array(
        backend.objective.bound(
            backend.tensor(apart.astype(dtype)),
            backend.tensor(fraction),
            backend.tensor(x_0),
            {"t": backend.tensor(t), **columns},
        )
    )
    deviation = np.exp(bound_columns(process)["log_variance_low"][0] / 2)
    tail = stats.norm.logsf((2 - 1 / 255) / deviation)
    assert np.isfinite(found).all() and np.max(np.abs(found[0] / -tail - 1)) < 1e-4
