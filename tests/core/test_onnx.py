"""Networks as ONNX models against the float64 NumPy U-Net and the twin's baseline, and images by ONNX Runtime."""

import dataclasses

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, SamplingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run
from core.inference.conditioning import no_condition
from core.inference.onnx_runtime import Network, OnnxRuntime
from core.inference.sampling import Conditioned, KeyedNoise, run_table
from core.networks.onnx_model import onnx_model
from core.networks.specs import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import NETWORK_FLOAT32
from tests.numpy_unet import NumpyUNet

SMALL = ModelConfig(
    (8, 12),
    2,
    2,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
)
UNETS = {
    "plain": SMALL,
    "original": dataclasses.replace(SMALL, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-3),
    "scale-shift": dataclasses.replace(
        SMALL,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        act_fn="gelu",
        mid_block_scale_factor=1.4,
        attention_head_dim=None,
    ),
    "conditions": dataclasses.replace(
        SMALL, in_channels=3, out_channels=4, num_class_embeds=4, vector_channels=3, condition_channels=1
    ),
    "few": dataclasses.replace(SMALL, mid_block_type=None, center_input_sample=True, layers_per_block=2),
    "patches": dataclasses.replace(SMALL, patch_size=2, num_class_embeds=4),
    "no-attention": dataclasses.replace(SMALL, add_attention=False, attn_norm_num_groups=2),
}
BASELINE = ModelConfig((8, 16), 2, 2, architecture="baseline", block_out_channels=(4, 8, 16, 16), num_class_embeds=3)
GREY = 0.01 / 255
"""The largest difference of two images in [0, 1]: 0.01 grey levels."""


def make_weights(config):
    rng = np.random.default_rng(0)
    specs = param_specs(config).items()
    return {n: (0.3 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(np.float32) for n, s in specs}


def make_inputs(config, count):
    rng = np.random.default_rng(count)
    x = rng.standard_normal((count, *config.sample_size, config.image_channels)).astype(np.float32)
    given = {}
    if config.num_class_embeds:
        given["labels"] = np.arange(count) % config.num_class_embeds
    if config.vector_channels:
        given["vector"] = rng.standard_normal((count, config.vector_channels)).astype(np.float32)
        given["keep"] = (np.arange(count) % 2).astype(np.float32)
    if config.condition_channels:
        given["image"] = rng.standard_normal((count, *config.sample_size, config.condition_channels)).astype(np.float32)
    return x, rng.uniform(0, 99, count).astype(np.float32), given


@pytest.mark.parametrize("name", UNETS)
def test_the_unet_equals_the_reference_at_any_batch_size(name):
    config = UNETS[name]
    network, reference = Network(onnx_model(config, make_weights(config)), 1), NumpyUNet(config, make_weights(config))
    for count in (1, 3):
        x, t, given = make_inputs(config, count)
        expected = reference(x.astype(np.float64), t, **given)
        require_close(
            network.bind(given).evaluate(x, t), expected, NETWORK_FLOAT32, f"{name}, {count} images", "float32"
        )


def test_the_baseline_equals_the_twin_s(backend):
    network = Network(onnx_model(BASELINE, make_weights(BASELINE)), 1)
    twin = backend.sampler.make_network(BASELINE, make_weights(BASELINE))
    for count in (1, 3):
        x, t, given = make_inputs(BASELINE, count)
        require_close(network.bind(given).evaluate(x, t), twin.bind(given).evaluate(x, t), NETWORK_FLOAT32, "output")


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++", "unipc"])
def test_guided_images_with_every_condition_are_those_of_the_twin(backend, sampler):
    """The variance is learned, so that the output has twice the image's channels."""
    config = UNETS["conditions"]
    weights = {name: 0.3 * value for name, value in make_weights(config).items()}
    process = make_process(ProcessConfig(timesteps=100, variance="learned", loss="hybrid"))
    variance = "learned" if sampler == "ddpm" else "fixed_small"
    table = make_table(process, SamplingConfig(sampler, 8, variance=variance, guidance=2.0))
    x, _, given = make_inputs(config, 3)

    def images(network):
        weak = network.bind(no_condition(given, 3))
        noise = np.random.default_rng(1).standard_normal((8, *x.shape)).astype(np.float32)
        return network.bind(given).run(table, x, lambda row: noise[row], weak)

    found = images(OnnxRuntime(1).make_network(config, weights, "float32"))
    expected = images(backend.sampler.make_network(config, weights))
    assert found.dtype == expected.dtype == np.float32 and found.std() > 0.1
    assert np.abs(found - expected).max() <= 2 * GREY  # images in [-1, 1]


def test_a_reference_run_is_the_loop(backend):
    """ONNX Runtime has the reference loop; without conditions, and with the hook."""
    config = UNETS["plain"]
    network = Network(onnx_model(config, make_weights(config)), 1).bind()
    table = make_table(make_process(ProcessConfig(timesteps=100)), SamplingConfig("ddim", 4))
    x, _, _ = make_inputs(config, 2)
    rows = []
    found = network.run(table, x, lambda row: x, after=lambda row, x, x_0: rows.append(row) or x)
    assert np.array_equal(found, run(table, network.evaluate, x, lambda row: x).astype(np.float32))
    assert rows == [0, 1, 2, 3]


def test_what_it_cannot_do_is_said(monkeypatch):
    runtime = OnnxRuntime()
    with pytest.raises(ValueError, match="float64"):
        runtime.make_network(SMALL, make_weights(SMALL), "float64")
    network = Conditioned(runtime.make_network(SMALL, make_weights(SMALL), "float32"), {})
    table = make_table(make_process(ProcessConfig(4)), SamplingConfig("ddpm", 4))
    with pytest.raises(ValueError, match=r"^runtime onnx: it draws no noise; take noise host$"):
        run_table(table, network, KeyedNoise(0, range(1), (8, 12, 2), "float32", on_device=True), 1)
    monkeypatch.setattr("core.inference.onnx_runtime.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^runtime onnx needs onnx and onnxruntime: pip install onnx onnxruntime$"):
        runtime.make_network(SMALL, make_weights(SMALL), "float32")
