"""The network of chart coordinates against its NumPy reference, and a run of matrices from end to end, in a twin."""

import dataclasses

import numpy as np
import pytest

from core.checkpoints.checkpoint import load_checkpoint
from core.commands.main import main
from core.config import ModelConfig
from core.networks.specs import initial_weights, param_specs
from core.reading import read_tensors
from eval.parity.closeness import require_close
from eval.parity.tolerances import NETWORK_FLOAT64
from tests.core.test_spd_space import TEXT
from tests.numpy_chart import NumpyChart

PLAIN = ModelConfig((1, 1), 6, 6, block_out_channels=(12,), layers_per_block=2, architecture="chart")
CONFIGS = {
    "plain": PLAIN,
    "conditional": dataclasses.replace(PLAIN, num_class_embeds=3, vector_channels=2),
    "learned": dataclasses.replace(PLAIN, out_channels=12, layers_per_block=1),
}
X, T = np.random.default_rng(2).standard_normal((4, 1, 1, 6)), np.array([0.0, 30.5, 400.0, 999.0])


def make_weights(config):
    rng = np.random.default_rng(0)
    return {name: 0.3 * rng.standard_normal(spec.shape) for name, spec in param_specs(config).items()}


def condition(config):
    rng = np.random.default_rng(1)
    given = {"vector": rng.standard_normal((4, 2)), "keep": np.array([1.0, 1.0, 0.0, 1.0])}
    return {"labels": np.array([2, 0, 1, 2]), **given} if config.vector_channels else {}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_network_equals_the_reference(backend, name):
    config, weights = CONFIGS[name], make_weights(CONFIGS[name])
    found = backend.sampler.make_network(config, weights, "float64").bind(condition(config)).evaluate(X, T)
    require_close(found, NumpyChart(config, weights)(X, T, **condition(config)), NETWORK_FLOAT64, "output")


def test_a_new_network_predicts_zero_and_refuses_images(backend):
    network = backend.sampler.make_network(PLAIN, initial_weights(PLAIN, 0, "float64"), "float64")
    assert not network.bind().evaluate(X, T).any()
    with pytest.raises(ValueError, match="size 2 x 3: must be 1 x 1"):
        network.module(backend.tensor(np.zeros((1, 2, 3, 6))), backend.tensor(np.zeros(1)))


def test_weights_come_back(backend):
    config, weights = CONFIGS["conditional"], make_weights(CONFIGS["conditional"])
    found = backend.weights.get_weights(backend.weights.build_unet(config, weights, "float64"))
    assert found.keys() == weights.keys() and all(np.array_equal(found[name], weights[name]) for name in weights)


def test_a_run_trains_goes_on_and_draws_matrices(backend, tmp_path):
    package, recipe = repr(backend), tmp_path / "spd.toml"
    recipe.write_text(TEXT.replace("CACHE", str(tmp_path / "cache")))

    def call(*words):
        assert main(package, [str(word) for word in words]) == 0

    call("train", "--config", recipe, "--run", tmp_path / "half", "--training.steps", 2)
    call("train", "--resume", tmp_path / "half", "--training.steps", 4)
    call("train", "--config", recipe, "--run", tmp_path / "whole")
    ends = [load_checkpoint(tmp_path / name / "checkpoints" / "step-00000004") for name in ("half", "whole")]
    assert all(np.array_equal(ends[0].ema[name], value) for name, value in ends[1].ema.items())
    folder = tmp_path / "half" / "checkpoints" / "step-00000004"
    tensors = read_tensors(folder / "chart.safetensors")
    assert all(tensors[name].tobytes() == getattr(ends[1].chart, name).tobytes() for name in tensors)
    call("sample", tmp_path / "half", "--n", 6, "--out", tmp_path / "out")
    samples = np.load(tmp_path / "out" / "samples.npy")
    assert samples.shape == (6, 3, 3) and samples.dtype == np.float64 and np.linalg.eigvalsh(samples).min() > 0
