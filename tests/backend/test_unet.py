"""The twin's whole network against the float64 NumPy reference, for every pair of options."""

import dataclasses

import numpy as np
import pytest

from core.networks.specs import count_parameters, param_specs
from eval.parity.closeness import NotCloseError, require_close
from eval.parity.configurations import CONFIGURATIONS
from eval.parity.tolerances import NETWORK_FLOAT32, NETWORK_FLOAT64
from tests.numpy_unet import NumpyUNet


def make_weights(config, seed=0):
    """Weights without zeros or symmetry; norms around 1."""
    rng = np.random.default_rng(seed)
    specs = param_specs(config).items()
    return {name: 0.3 * rng.standard_normal(spec.shape) + (spec.kind == "norm") for name, spec in specs}


def make_inputs(config, batch=2, size=None):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, *(size or config.sample_size), config.in_channels))
    t = np.linspace(3, 999, batch)
    return x, t, np.arange(batch)[::-1] % config.num_class_embeds if config.num_class_embeds else None


def evaluate(backend, network, x, t, labels):
    y = None if labels is None else backend.tensor(labels)
    return backend.array(network(backend.tensor(x), backend.tensor(np.asarray(t)), y))


@pytest.fixture(scope="module")
def networks(backend):
    """One network of each configuration, float64."""
    return {n: backend.weights.build_unet(c, make_weights(c), "float64") for n, c in CONFIGURATIONS.items()}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_network_equals_the_reference(backend, networks, name):
    config = CONFIGURATIONS[name]
    inputs = make_inputs(config)
    expected = NumpyUNet(config, make_weights(config))(*inputs)
    require_close(evaluate(backend, networks[name], *inputs), expected, NETWORK_FLOAT64, name)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_names_shapes_and_total_are_the_specs(backend, networks, name):
    config = CONFIGURATIONS[name]
    found = backend.weights.get_weights(networks[name])
    assert {n: w.shape for n, w in found.items()} == {n: s.shape for n, s in param_specs(config).items()}
    assert sum(w.size for w in found.values()) == count_parameters(config)


@pytest.mark.parametrize("name", ["network-01", "network-05", "network-12"])
def test_in_float32(backend, name):
    config = CONFIGURATIONS[name]
    weights = {n: w.astype(np.float32) for n, w in make_weights(config).items()}
    x, t, labels = make_inputs(config)
    network = backend.weights.build_unet(config, weights, "float32")
    found = evaluate(backend, network, x.astype(np.float32), t.astype(np.float32), labels)
    expected = NumpyUNet(config, weights)(x.astype(np.float32).astype(np.float64), t, labels)
    require_close(found, expected, NETWORK_FLOAT32, name, "float32")


def test_every_parameter_matters():
    """Changing any one weight changes the output, except for weights that no output depends on."""
    config = CONFIGURATIONS["network-02"]
    inputs, weights = make_inputs(config, 1), make_weights(config)
    expected = NumpyUNet(config, weights)(*inputs)
    # Keys' biases shift every score of a query alike, which softmax does not see.
    for name in [n for n in weights if not n.endswith("to_k.bias")][::7]:
        changed = weights[name].copy()
        changed.flat[0] += 0.01
        with pytest.raises(NotCloseError):
            require_close(NumpyUNet(config, {**weights, name: changed})(*inputs), expected, NETWORK_FLOAT64, name)


UNCONDITIONAL = next(n for n, c in CONFIGURATIONS.items() if c.num_class_embeds is None)
CONDITIONAL = next(n for n, c in CONFIGURATIONS.items() if c.num_class_embeds)


@pytest.mark.parametrize("t", (0.0, 500.25, 999.0))
def test_a_scalar_t_and_a_fraction(backend, networks, t):
    config = CONFIGURATIONS[UNCONDITIONAL]
    x, _, _ = make_inputs(config)
    expected = NumpyUNet(config, make_weights(config))(x, t)
    require_close(
        evaluate(backend, networks[UNCONDITIONAL], x, np.float64(t), None), expected, NETWORK_FLOAT64, "scalar"
    )
    require_close(
        evaluate(backend, networks[UNCONDITIONAL], x, np.full(2, t), None), expected, NETWORK_FLOAT64, "vector"
    )


def test_integer_levels_as_training_gives_them(backend, networks):
    config = CONFIGURATIONS[UNCONDITIONAL]
    x, _, _ = make_inputs(config)
    expected = NumpyUNet(config, make_weights(config))(x, np.array([3.0, 999.0]))
    found = evaluate(backend, networks[UNCONDITIONAL], x, np.array([3, 999]), None)
    require_close(found, expected, NETWORK_FLOAT64, "int64")


@pytest.mark.parametrize("size", ((12, 20), (4, 4)))
def test_any_size_that_fits(backend, networks, size):
    config = CONFIGURATIONS[UNCONDITIONAL]
    inputs = make_inputs(config, 3, size)
    expected = NumpyUNet(config, make_weights(config))(*inputs)
    require_close(evaluate(backend, networks[UNCONDITIONAL], *inputs), expected, NETWORK_FLOAT64, str(size))


def test_a_size_that_does_not_fit_is_refused(backend, networks):
    config = CONFIGURATIONS[UNCONDITIONAL]
    size = (config.downscale * 3, config.downscale * 3 + 1)
    with pytest.raises(ValueError, match=f"width {size[1]} .* {config.downscale}"):
        evaluate(backend, networks[UNCONDITIONAL], *make_inputs(config, 1, size))


def test_labels_must_go_with_the_network(backend, networks):
    x, t, labels = make_inputs(CONFIGURATIONS[CONDITIONAL])
    with pytest.raises(ValueError, match=r"labels: missing.*num_class_embeds = 3"):
        evaluate(backend, networks[CONDITIONAL], x, t, None)
    x, t, _ = make_inputs(CONFIGURATIONS[UNCONDITIONAL])
    with pytest.raises(ValueError, match=r"labels: given.*num_class_embeds = None"):
        evaluate(backend, networks[UNCONDITIONAL], x, t, labels)


def test_a_network_is_built_for_evaluation_without_dropout(backend):
    config = dataclasses.replace(CONFIGURATIONS[UNCONDITIONAL], dropout=0.9)
    inputs = make_inputs(config)
    network = backend.weights.build_unet(config, make_weights(config), "float64")
    expected = NumpyUNet(config, make_weights(config))(*inputs)
    require_close(evaluate(backend, network, *inputs), expected, NETWORK_FLOAT64, "dropout")
