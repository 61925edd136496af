"""The twin's loss against the objective by hand."""

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig
from core.diffusion.process import coefficients, make_process
from core.model.unet_spec import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import LOSS_FLOAT64
from tests.numpy_unet import NumpyUNet

CONFIG = ModelConfig(
    (4, 6), 2, 2, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,),
    layers_per_block=1, norm_num_groups=4, mid_block_type=None, num_class_embeds=3,
)  # fmt: skip
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
    found = backend.objective.loss(network, {name: backend.tensor(value) for name, value in batch.items()})

    total = 0.0
    for i in range(5):
        abar = np.prod(1 - np.linspace(1e-4, 0.02, T)[: t[i] + 1])
        x_t = np.sqrt(abar) * x_0[i] + np.sqrt(1 - abar) * eps[i]
        output = NumpyUNet(CONFIG, weights())(x_t[None], float(t[i]), labels[i : i + 1])[0]
        error = (output - TARGETS[prediction](x_0[i], eps[i], abar)) ** 2
        total += WEIGHTS[kind](abar / (1 - abar)) * error.mean() / 5
    require_close(backend.array(found), np.array(total), LOSS_FLOAT64, "loss")
