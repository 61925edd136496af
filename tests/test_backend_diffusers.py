"""The PyTorch twin and live diffusers: outputs, and folders that either wrote and the other opens."""

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, Recipe
from core.model.checkpoint import Checkpoint, save_checkpoint
from core.model.diffusers_config import unet_to_diffusers
from core.model.unet_spec import param_specs, time_frequencies
from core.sampling import open_source
from eval.parity.closeness import require_close
from eval.parity.configurations import CONFIGURATIONS
from eval.parity.tolerances import NETWORK_FLOAT32, NETWORK_FLOAT64
from tests.numpy_unet import NumpyUNet

pytestmark = pytest.mark.diffusers


def make_weights(config, dtype=np.float64):
    rng = np.random.default_rng(0)
    specs = param_specs(config).items()
    return {n: (0.3 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(dtype) for n, s in specs}


def make_inputs(config, dtype=np.float64):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, *config.sample_size, config.in_channels)).astype(dtype)
    return x, np.array([3.0, 999.0]), np.array([2, 0]) if config.num_class_embeds else None


def peer_keys(config):
    return {k: v for k, v in unet_to_diffusers(config).items() if not k.startswith("_")}


def in_float64(peer, config):
    """The peer in float64. Its own time_proj is float32 whatever the network is (3e-5 off at t = 999)."""
    import torch

    class Sinusoids(torch.nn.Module):
        def forward(self, t):
            angle = t.double()[:, None] * torch.from_numpy(time_frequencies(config))
            parts = (angle.cos(), angle.sin()) if config.flip_sin_to_cos else (angle.sin(), angle.cos())
            return torch.cat(parts, dim=1)

    peer = peer.double().eval()
    peer.time_proj = Sinusoids()
    return peer


def peer_output(backend, peer, x, t, labels):
    import torch

    with torch.no_grad():
        y = None if labels is None else torch.from_numpy(labels)
        return backend.array(peer(backend.tensor(x), torch.from_numpy(t), class_labels=y).sample)


def output(backend, network, x, t, labels):
    y = None if labels is None else backend.tensor(labels)
    return backend.array(network(backend.tensor(x), backend.tensor(t), y))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_network_equals_diffusers(backend, name):
    """And the NumPy reference, which the TensorFlow twin is held against, equals diffusers too."""
    import torch
    from diffusers import UNet2DModel

    config, weights = CONFIGURATIONS[name], make_weights(CONFIGURATIONS[name])
    peer = in_float64(UNet2DModel(**peer_keys(config)), config)
    peer.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})
    inputs = make_inputs(config)
    expected = peer_output(backend, peer, *inputs)
    network = backend.weights.build_unet(config, weights, "float64")
    require_close(output(backend, network, *inputs), expected, NETWORK_FLOAT64, name)
    require_close(NumpyUNet(config, weights)(*inputs), expected, NETWORK_FLOAT64, name)


SAVED = ["network-01", "network-02", "network-09"]


@pytest.mark.parametrize("name", SAVED)
def test_a_model_that_diffusers_saved_opens(backend, tmp_path, name):
    """Its random weights; float32, with diffusers' own time embedding."""
    import torch
    from diffusers import UNet2DModel

    config = CONFIGURATIONS[name]
    torch.manual_seed(0)
    peer = UNet2DModel(**peer_keys(config)).eval()
    peer.save_pretrained(tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    x, t, labels = make_inputs(config, np.float32)
    network = backend.weights.load_unet(tmp_path / "a")
    assert network.config == config
    expected = peer_output(backend, peer, x, t, labels)
    require_close(output(backend, network, x, t, labels), expected, NETWORK_FLOAT32, name)
    wide = backend.weights.load_unet(tmp_path / "a", "float64")
    x = x.astype(np.float64)
    expected = peer_output(backend, in_float64(peer, config), x, t, labels)
    require_close(output(backend, wide, x, t, labels), expected, NETWORK_FLOAT64, name)


def test_a_pipeline_that_diffusers_saved_opens(backend, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    config = next(c for c in CONFIGURATIONS.values() if c.num_class_embeds is None)
    peer = UNet2DModel(**peer_keys(config)).eval()
    scheduler = DDPMScheduler(250, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    DDPMPipeline(peer, scheduler).save_pretrained(tmp_path / "a")
    x, t, _ = make_inputs(config, np.float32)
    network = backend.weights.load_unet(tmp_path / "a")
    expected = peer_output(backend, peer, x, t, None)
    require_close(output(backend, network, x, t, None), expected, NETWORK_FLOAT32, "output")
    source = open_source(tmp_path / "a", "ema")
    assert source.process == ProcessConfig(250, "cosine", prediction="v") and source.sampling.steps == 50


def test_a_model_that_was_saved_as_a_pickle_is_not_opened(backend, tmp_path):
    from diffusers import UNet2DModel

    peer = UNet2DModel(**peer_keys(CONFIGURATIONS["network-01"]))
    peer.save_pretrained(tmp_path / "a", safe_serialization=False)
    assert (tmp_path / "a" / "diffusion_pytorch_model.bin").is_file()
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors: no such file"):
        backend.weights.load_unet(tmp_path / "a")


SMALL = ModelConfig(
    (8, 8), 3, 3, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
)  # fmt: skip


def checkpoint(path, config):
    """One whose raw weights are not its EMA weights."""
    ema = make_weights(config, np.float32)
    state = {f"{part}/{n}": w + 1 for part in ("params", "exp_avg", "exp_avg_sq") for n, w in ema.items()}
    recipe = Recipe(config, ProcessConfig(100, "scaled_linear", prediction="v", zero_terminal_snr=True))
    save_checkpoint(path, Checkpoint(recipe, ema, state, {"step": 1}, {}))
    return path


def test_our_checkpoint_opens_as_a_diffusers_pipeline_and_samples(backend, tmp_path):
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    pipeline = DDPMPipeline.from_pretrained(checkpoint(tmp_path / "a", SMALL))
    assert isinstance(pipeline.unet, UNet2DModel) and isinstance(pipeline.scheduler, DDPMScheduler)
    assert pipeline.scheduler.config.num_train_timesteps == 100 and pipeline.scheduler.config.rescale_betas_zero_snr
    x, t, _ = make_inputs(SMALL, np.float32)
    expected = peer_output(backend, pipeline.unet.eval(), x, t, None)
    network = backend.weights.load_unet(tmp_path / "a")
    require_close(output(backend, network, x, t, None), expected, NETWORK_FLOAT32, "output")
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 8, 8, 3) and np.isfinite(images).all()


def test_our_class_conditional_checkpoint_opens_as_a_diffusers_model(backend, tmp_path):
    from diffusers import UNet2DModel

    config = CONFIGURATIONS[next(n for n in CONFIGURATIONS if CONFIGURATIONS[n].num_class_embeds)]
    peer = UNet2DModel.from_pretrained(checkpoint(tmp_path / "a", config), subfolder="unet").eval()
    x, t, labels = make_inputs(config, np.float32)
    network = backend.weights.load_unet(tmp_path / "a")
    expected = peer_output(backend, peer, x, t, labels)
    require_close(output(backend, network, x, t, labels), expected, NETWORK_FLOAT32, "output")
