"""The PyTorch twin and live diffusers: outputs, and folders that either wrote and the other opens."""

import dataclasses
import importlib
import itertools

import numpy as np
import pytest

from core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from core.checkpoints.diffusers_config import unet_to_diffusers
from core.checkpoints.scheduler_config import SCHEDULERS
from core.checkpoints.trained import open_trained
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.inference.conditioning import no_condition
from core.inference.sampling import Conditioned, KeyedNoise, finished, run_table
from core.networks.specs import param_specs, time_frequencies
from core.random import gaussian
from eval.parity.closeness import require_close
from eval.parity.configurations import CONFIGURATIONS
from eval.parity.tolerances import NETWORK_FLOAT32, NETWORK_FLOAT64, PIPELINE_FLOAT32, PIPELINE_FLOAT64
from tests.numpy_unet import NumpyUNet, from_patches, to_patches

UNCONDITIONAL = next(n for n, c in CONFIGURATIONS.items() if c.num_class_embeds is None and c.in_channels == 1)

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # theirs, of NumPy 2
]


def make_weights(config, dtype=np.float64):
    rng = np.random.default_rng(0)
    specs = param_specs(config).items()
    return {n: (0.3 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(dtype) for n, s in specs}


def make_inputs(config, dtype=np.float64):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, *config.sample_size, config.in_channels)).astype(dtype)
    return x, np.array([3.0, 999.0]), np.array([2, 0]) if config.num_class_embeds else None


def peer_keys(config):
    """UNet2DModel's keys. It has no patches, so it gets their pixels as channels."""
    pixels, (height, width) = config.patch_size**2, config.sample_size
    size = (height // config.patch_size, width // config.patch_size)
    channels = {f"{way}_channels": getattr(config, f"{way}_channels") * pixels for way in ("in", "out")}
    config = dataclasses.replace(config, sample_size=size, patch_size=1, **channels)
    return {k: v for k, v in unet_to_diffusers(config).items() if not k.startswith("_")}


def in_float64(peer, config):
    """diffusers' network in float64. Its own time_proj is always float32, which is 3e-5 off at t = 999."""
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
    """The NumPy reference, the oracle of the TensorFlow twin, equals diffusers too."""
    import torch
    from diffusers import UNet2DModel

    config, weights = CONFIGURATIONS[name], make_weights(CONFIGURATIONS[name])
    peer = in_float64(UNet2DModel(**peer_keys(config)), config)
    peer.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})
    inputs = make_inputs(config)
    x, *others = inputs
    expected = from_patches(peer_output(backend, peer, to_patches(x, config.patch_size), *others), config.patch_size)
    network = backend.weights.build_unet(config, weights, "float64")
    require_close(output(backend, network, *inputs), expected, NETWORK_FLOAT64, name)
    require_close(NumpyUNet(config, weights)(*inputs), expected, NETWORK_FLOAT64, name)


SAVED = ["network-01", "network-02", "network-09"]


@pytest.mark.parametrize("name", SAVED)
def test_a_model_that_diffusers_saved_opens(backend, tmp_path, name):
    """A model of random weights in float32, with diffusers' own time embedding."""
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
    source = open_trained(tmp_path / "a", "ema")
    assert source.process == ProcessConfig(250, "cosine", prediction="v")
    assert source.sampling == SamplingConfig("ddpm", 250, "leading")


SMALL = ModelConfig(
    (8, 8),
    3,
    3,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
)


def saved(path, process, sampling, config=SMALL):
    """A checkpoint whose raw weights differ from its EMA weights; its output is about as large as its input."""
    ema = {n: w if w.ndim < 2 else w / 3 for n, w in make_weights(config, np.float32).items()}
    state = {f"{part}/{n}": w + 1 for part in ("params", "exp_avg", "exp_avg_sq") for n, w in ema.items()}
    save_checkpoint(path, Checkpoint(Recipe(config, process, sampling=sampling), ema, state, {"step": 1}, {}))
    return path


def our_images(backend, folder, sampling, dtype):
    """As the verb draws them, with a given sampler."""
    source = open_trained(folder, "ema")
    network = backend.sampler.make_network(source.model, source.weights, dtype)
    table = make_table(make_process(source.process), sampling)
    noise = KeyedNoise(3, range(2), source.image_shape, dtype)
    return finished(run_table(table, Conditioned(network, {}), noise, 2))


def their_images(monkeypatch, pipeline, sampling, process=None, **options):
    """The pipeline's images from our keyed noise; in float64 where a process is given."""
    import torch

    dtype = "float32"
    if process is not None:
        dtype, peer = "float64", pipeline.scheduler
        in_float64(pipeline.unet, SMALL)
        peer.alphas_cumprod = torch.from_numpy(np.array(make_process(process).alphas_cumprod))
    rows = itertools.count()

    def noise(purpose, row):
        x = gaussian(3, purpose, range(2), row, (*SMALL.sample_size, SMALL.in_channels), dtype)
        # DDPMScheduler adds 1e-10 of noise to a final image that is not at t = 0.
        return torch.from_numpy(x if row < sampling.steps - 1 else 0 * x).permute(0, 3, 1, 2)

    for name in ("ddpm", "ddim"):
        start = importlib.import_module(f"diffusers.pipelines.{name}.pipeline_{name}")
        monkeypatch.setattr(start, "randn_tensor", lambda *a, **k: noise("x_T", 0))
        step = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
        monkeypatch.setattr(step, "randn_tensor", lambda *a, **k: noise("sampler", next(rows)))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(2, num_inference_steps=sampling.steps, output_type="np", **options).images


RUNS = {
    "linear-eps-ddpm": (ProcessConfig(100), SamplingConfig("ddpm", 20, "leading", variance="fixed_large")),
    "zero-v-ddpm": (
        ProcessConfig(100, "scaled_linear", prediction="v", zero_terminal_snr=True),
        SamplingConfig("ddpm", 20),
    ),
    "cosine-x0-ddim": (ProcessConfig(100, "cosine", prediction="x0"), SamplingConfig("ddim", 20)),
    "zero-v-ddim": (ProcessConfig(100, prediction="v", zero_terminal_snr=True), SamplingConfig("ddim", 20, eta=0.7)),
    "sigmoid-eps-ddim": (ProcessConfig(100, "sigmoid"), SamplingConfig("ddim", 20, "leading", clip=False)),
    "sigmoid-x0-ddpm": (ProcessConfig(100, "sigmoid", prediction="x0"), SamplingConfig("ddpm", 20, clip=False)),
    "scaled-v-solver": (ProcessConfig(100, "scaled_linear", prediction="v"), SamplingConfig("dpmsolver++", 20)),
}


@pytest.mark.parametrize("name", RUNS)
def test_our_checkpoint_samples_the_same_images_in_diffusers(backend, tmp_path, monkeypatch, name):
    """The pipeline of the recipe's sampler opens the folder as it is, in float32 and where it can in float64."""
    from diffusers import DDIMPipeline, DDPMPipeline

    process, sampling = RUNS[name]
    folder = saved(tmp_path / "a", process, sampling)
    ddim = sampling.sampler == "ddim"
    kind, options = (
        (DDIMPipeline, dict(eta=sampling.eta, use_clipped_model_output=True)) if ddim else (DDPMPipeline, {})
    )
    found = our_images(backend, folder, sampling, "float32")
    assert ((found > 0.01) & (found < 0.99)).mean() > 0.1, "saturated images hide differences"
    expected = their_images(monkeypatch, kind.from_pretrained(folder), sampling, **options)
    require_close(found, expected, PIPELINE_FLOAT32, name)
    if sampling.sampler != "dpmsolver++":  # which casts to float32 in every step
        found = our_images(backend, folder, sampling, "float64")
        expected = their_images(monkeypatch, kind.from_pretrained(folder), sampling, process, **options)
        require_close(found, expected, PIPELINE_FLOAT64, name)


@pytest.mark.parametrize("name", RUNS)
def test_every_checkpoint_opens_with_both_pipelines(backend, tmp_path, monkeypatch, name):
    """DDIMPipeline makes a DDIMScheduler of any configuration: spacing, clip and betas must come through."""
    import diffusers

    process, sampling = RUNS[name]
    folder = saved(tmp_path / "a", process, sampling)
    ddim = SamplingConfig("ddim", 20, sampling.spacing, clip=sampling.clip)
    pipeline = diffusers.DDIMPipeline.from_pretrained(folder)
    expected = their_images(monkeypatch, pipeline, ddim, process, use_clipped_model_output=True)
    require_close(our_images(backend, folder, ddim, "float64"), expected, PIPELINE_FLOAT64, name)
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    images = their_images(monkeypatch, pipeline, sampling)
    assert images.shape == (2, 8, 8, 3) and np.isfinite(images).all()
    named = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(named).__name__ == ("DDIMPipeline" if sampling.sampler == "ddim" else "DDPMPipeline")
    assert type(named.scheduler).__name__ == SCHEDULERS[sampling.sampler].class_name


def test_the_class_for_none_is_a_class_to_diffusers(backend, tmp_path):
    """A network trained with dropped labels has one more class, the unconditional one; guidance moves away from it."""
    from diffusers import UNet2DModel

    config = dataclasses.replace(CONFIGURATIONS[UNCONDITIONAL], num_class_embeds=4)
    recipe = Recipe(config, sampling=SamplingConfig(guidance=2.0), training=TrainingConfig(condition_dropout=0.1))
    weights = make_weights(config, np.float32)
    state = {f"{part}/{n}": w for part in ("params", "exp_avg", "exp_avg_sq") for n, w in weights.items()}
    save_checkpoint(tmp_path / "a", Checkpoint(recipe, weights, state, {"step": 1}, {}))
    peer = UNet2DModel.from_pretrained(tmp_path / "a" / "unet").eval()
    source = open_trained(tmp_path / "a", "ema")
    assert peer.config.num_class_embeds == 4 and source.classes == 3 and source.drops
    x, t, _ = make_inputs(config, np.float32)
    null = no_condition({"labels": np.array([2, 0])}, source.classes)["labels"]
    assert null.tolist() == [3, 3]
    network = backend.weights.load_unet(tmp_path / "a")
    require_close(output(backend, network, x, t, null), peer_output(backend, peer, x, t, null), NETWORK_FLOAT32, "none")


def test_a_network_conditioned_on_an_image_opens_as_a_diffusers_model(backend, tmp_path):
    """Its input has the channels of the drawn image and then those of the condition."""
    from diffusers import UNet2DModel

    config = dataclasses.replace(CONFIGURATIONS[UNCONDITIONAL], in_channels=3, out_channels=1, condition_channels=2)
    folder = saved(tmp_path / "a", ProcessConfig(), SamplingConfig(), config)
    peer = UNet2DModel.from_pretrained(folder / "unet").eval()
    x, t, _ = make_inputs(config, np.float32)
    expected = peer_output(backend, peer, x, t, None)
    network = backend.weights.load_unet(folder)
    assert network.config == config and "image" in (folder / "README").read_text()
    found = network(backend.tensor(x[..., :1]), backend.tensor(t), image=backend.tensor(x[..., 1:]))
    require_close(backend.array(found), expected, NETWORK_FLOAT32, "output")


def test_our_class_conditional_checkpoint_opens_as_a_diffusers_model(backend, tmp_path):
    from diffusers import UNet2DModel

    config = CONFIGURATIONS[next(n for n in CONFIGURATIONS if CONFIGURATIONS[n].num_class_embeds)]
    peer = UNet2DModel.from_pretrained(saved(tmp_path / "a", ProcessConfig(), SamplingConfig(), config) / "unet").eval()
    x, t, labels = make_inputs(config, np.float32)
    network = backend.weights.load_unet(tmp_path / "a")
    expected = peer_output(backend, peer, x, t, labels)
    require_close(output(backend, network, x, t, labels), expected, NETWORK_FLOAT32, "output")
