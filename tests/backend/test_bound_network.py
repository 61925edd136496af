"""The twin's bound network: output and vector-Jacobian product in float64, against NumPy and finite differences."""

import numpy as np
import pytest

from core.config import ModelConfig
from core.networks.specs import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import FINITE_DIFFERENCE, SAMPLER_FLOAT64
from tests.numpy_unet import NumpyUNet

MODEL = ModelConfig(
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
    dropout=0.5,
)


@pytest.fixture(scope="module")
def pair(backend):
    rng = np.random.default_rng(0)
    weights = {n: 0.3 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in param_specs(MODEL).items()}
    return backend.sampler.make_network(MODEL, weights, "float64"), NumpyUNet(MODEL, weights)


def inputs(count):
    rng = np.random.default_rng(1)
    x, v = rng.standard_normal((2, count, 4, 6, 2))
    return x, np.array([3.0, 41.5, 999.0])[:count], v, {"labels": np.array([2, 0, 1])[:count]}


@pytest.mark.parametrize("count", (3, 1))
def test_the_output_is_the_network_s(pair, count):
    network, reference = pair
    x, t, v, condition = inputs(count)
    bound = network.bind(condition)
    expected = np.concatenate([reference(x[i : i + 1], t[i], condition["labels"][i : i + 1]) for i in range(count)])
    require_close(bound.evaluate(x, t), expected, SAMPLER_FLOAT64, "output")
    output, _ = bound.vector_jacobian(x, t, v)
    require_close(output, expected, SAMPLER_FLOAT64, "output beside the product")


def test_the_product_is_that_of_the_numerical_jacobian(pair):
    """v^T J u for random u, by five points 1e-3 apart."""
    network, _ = pair
    x, t, v, condition = inputs(3)
    bound = network.bind(condition)
    _, product = bound.vector_jacobian(x, t, v)
    assert product.shape == x.shape
    for u in np.random.default_rng(2).standard_normal((4, *x.shape)):
        h = 1e-3
        f = {k: bound.evaluate(x + k * h * u, t) for k in (-2, -1, 1, 2)}
        slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
        by_image = (1, 2, 3)
        require_close((product * u).sum(axis=by_image), (v * slope).sum(axis=by_image), FINITE_DIFFERENCE, "v^T J u")


def test_the_vector_may_be_a_function_of_the_output(pair):
    network, _ = pair
    x, t, v, condition = inputs(3)
    bound = network.bind(condition)
    output, product = bound.vector_jacobian(x, t, lambda found: v * np.sin(found))
    expected = bound.vector_jacobian(x, t, v * np.sin(output))
    require_close(output, expected[0], SAMPLER_FLOAT64, "output")
    require_close(product, expected[1], SAMPLER_FLOAT64, "product")


def test_the_exact_trace_is_the_numerical_jacobian_s(pair):
    network, _ = pair
    x, t, _, condition = inputs(1)
    bound = network.bind(condition)
    trace = numeric = 0.0
    for v in np.eye(48).reshape(48, 1, 4, 6, 2):
        trace += np.sum(v * bound.vector_jacobian(x, t, v)[1])
        f = {k: np.sum(v * bound.evaluate(x + k * 1e-3 * v, t)) for k in (-2, -1, 1, 2)}
        numeric += (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / 12e-3
    assert trace == pytest.approx(numeric, rel=FINITE_DIFFERENCE)
