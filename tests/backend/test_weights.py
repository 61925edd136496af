"""Weights in and out of the twin: bit-exact, by name, and nothing that does not fit."""

import dataclasses

import numpy as np
import pytest

from core.checkpoints.checkpoint import WEIGHTS_FILE
from core.checkpoints.diffusers_config import unet_to_diffusers
from core.config import ModelConfig
from core.files import write_json, write_tensors
from core.networks.specs import count_parameters, param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import NETWORK_FLOAT64
from tests.numpy_unet import NumpyUNet

# Attention, both kinds of resampling, classes, shortcuts.
CONFIG = ModelConfig(
    (8, 8),
    2,
    2,
    down_block_types=("AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    num_class_embeds=3,
    downsample_type="resnet",
)


def make_weights(seed=0, config=CONFIG, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s.shape).astype(dtype) for n, s in param_specs(config).items()}


@pytest.fixture(scope="module")
def network(backend):
    return backend.weights.build_unet(CONFIG, make_weights(), "float64")


def equal(a, b):
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and (a[n] == b[n]).all() for n in a)


def test_weights_come_back_bit_for_bit_as_contiguous_copies(backend, network):
    backend.weights.set_weights(network, make_weights(1))
    found = backend.weights.get_weights(network)
    assert equal(found, make_weights(1)) and all(w.flags.c_contiguous for w in found.values())
    for w in found.values():
        w[...] = 0  # a copy: the network keeps its own
    assert equal(backend.weights.get_weights(network), make_weights(1))


def test_the_network_holds_nothing_but_the_specs(backend, network):
    """The framework's own list of variables has every parameter once and nothing else."""
    if backend.name == "torch":
        own = {n: tuple(p.shape) for n, p in network.state_dict().items()}
        assert own == {n: s.shape for n, s in param_specs(CONFIG).items()}
    else:
        assert network.count_params() == count_parameters(CONFIG)
        assert len(network.trainable_variables) == len(param_specs(CONFIG))
        assert len({id(v) for v in backend.weights.variables(network).values()}) == len(param_specs(CONFIG))


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_precision_is_as_asked(backend, dtype):
    found = backend.weights.get_weights(backend.weights.build_unet(CONFIG, make_weights(dtype=np.float32), dtype))
    assert all(w.dtype == dtype and (w == make_weights(dtype=np.float32)[n]).all() for n, w in found.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {n: v for n, v in w.items() if n != "conv_in.bias"},
            r"1 missing, 0 left over \(missing conv_in\.bias\)",
        ),
        (lambda w: {**w, "conv_in.extra": w["conv_in.bias"]}, r"left over conv_in\.extra"),
        (
            lambda w: {**w, "conv_in.weight": w["conv_in.weight"].transpose(2, 3, 1, 0)},
            r"conv_in\.weight has shape \(3, 3, 2, 8\)",
        ),
        (lambda w: {**w, "conv_out.bias": np.array([0.0, np.nan])}, r"conv_out\.bias holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_changed(backend, network, change, message):
    backend.weights.set_weights(network, make_weights(2))
    with pytest.raises(ValueError, match=message):
        backend.weights.set_weights(network, change(make_weights(3)))
    assert equal(backend.weights.get_weights(network), make_weights(2))


def folder(path, config=CONFIG, weights=None):
    path.mkdir(parents=True)
    write_json(path / "config.json", unet_to_diffusers(config))
    write_tensors(path / WEIGHTS_FILE, weights or make_weights(config=config))
    return path


@pytest.mark.parametrize("name", (".", "unet"))
def test_a_folder_opens_bare_or_as_a_pipeline(backend, tmp_path, name):
    folder(tmp_path / "a" / name)
    network = backend.weights.load_unet(tmp_path / "a", "float64")
    x, t, labels = np.random.default_rng(0).standard_normal((2, 8, 8, 2)), np.array([1.0, 700.0]), np.array([2, 0])
    found = backend.array(network(backend.tensor(x), backend.tensor(t), backend.tensor(labels)))
    require_close(found, NumpyUNet(CONFIG, make_weights())(x, t, labels), NETWORK_FLOAT64, "output")


def test_a_folder_is_opened_in_float32_by_default_and_from_the_package(backend, tmp_path):
    import importlib

    network = importlib.import_module(repr(backend)).load_unet(str(folder(tmp_path / "a")))
    assert all(w.dtype == np.float32 for w in backend.weights.get_weights(network).values())


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ({"act_fn": "mish"}, None, r"config\.json: model\.act_fn = 'mish'"),
        ({"time_embedding_type": "fourier"}, None, r"config\.json: time_embedding_type = 'fourier' is not supported"),
        ({"encoder_hid_dim": 3}, None, r"config\.json: key 'encoder_hid_dim' is not supported"),
        ({"_class_name": "UNet1DModel"}, None, r"only UNet2DModel can be read"),
        ({}, {"conv_in.bias": np.zeros(8)}, r"safetensors: not the weights of this network: \d+ missing, 0 left over"),
        ({"num_class_embeds": None}, None, r"0 missing, 1 left over \(left over class_embedding\.weight\)"),
    ],
)
def test_a_folder_that_is_not_supported_is_refused(backend, tmp_path, config, weights, message):
    path = folder(tmp_path / "a", weights=weights)
    write_json(path / "config.json", {**unet_to_diffusers(CONFIG), **config})
    with pytest.raises(ValueError, match=message):
        backend.weights.load_unet(path)


def test_a_file_cut_short_is_refused(backend, tmp_path):
    path = folder(tmp_path / "a")
    content = (path / WEIGHTS_FILE).read_bytes()
    (path / WEIGHTS_FILE).write_bytes(content[:-1])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        backend.weights.load_unet(path)


def test_another_configuration_is_another_network(backend):
    other = dataclasses.replace(CONFIG, block_out_channels=(16, 16))
    with pytest.raises(ValueError, match=r"left over down_blocks\.1\.resnets\.0\.conv_shortcut"):
        backend.weights.build_unet(other, make_weights(), "float64")
