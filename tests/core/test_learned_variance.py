"""The bound's columns against their definitions, and in a batch and a checkpoint of a learned variance."""

import dataclasses
import json

import numpy as np
import pytest

from core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.data.dataset import Dataset
from core.diffusion.bound import bound_columns
from core.diffusion.process import make_process
from core.networks.specs import initial_weights
from core.training.training import Training

MODEL = ModelConfig(
    (4, 6),
    2,
    4,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    block_out_channels=(8,),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_type=None,
)


def process_of(**options):
    return make_process(ProcessConfig(**{"variance": "learned", "loss": "hybrid", **options}))


@pytest.mark.parametrize(
    "options", [{}, dict(schedule="cosine", prediction="v"), dict(prediction="x0", zero_terminal_snr=True)]
)
def test_columns_are_their_definitions(options):
    process = process_of(**options)
    columns, bar = bound_columns(process), process.alphas_cumprod.astype(np.longdouble)
    snr = bar / process.noise.astype(np.longdouble) ** 2
    assert columns["snr_drop"][0] == 0
    assert np.max(np.abs(columns["snr_drop"][1:] / (snr[:-1] - snr[1:]) - 1)) < 1e-9
    high = columns["log_variance_low"] + columns["log_variance_gap"]
    assert np.max(np.abs(np.exp(high) / process.betas - 1)) < 1e-12
    assert np.max(np.abs(np.exp(columns["log_variance_low"][1:]) / process.posterior_variance[1:] - 1)) < 1e-12
    assert all(np.isfinite(column).all() and column.shape == (1000,) for column in columns.values())


def test_lambda_is_a_thousandth_of_the_levels_in_bits():
    """Nichol & Dhariwal 2021, section 3.4: lambda = 0.001 on the sum over T terms, of which one is drawn."""
    assert np.allclose(bound_columns(process_of(timesteps=4000))["bound_weight"], 4 / np.log(2), rtol=1e-15)
    assert np.allclose(bound_columns(process_of(loss="vlb"))["bound_weight"], 1000 / np.log(2), rtol=1e-15)


def test_importance_weighs_both_parts_of_the_loss():
    recipe = Recipe(
        MODEL,
        process_of().config,
        training=TrainingConfig(batch_size=3, timestep_sampling="importance", dtype="float64"),
    )
    images = np.random.default_rng(0).random((5, 4, 6, 2), np.float32)
    data, process = Dataset(images, None, (), {}, np.arange(5), np.arange(0), {}), make_process(recipe.process)
    training = Training(recipe, data)
    batch = training.batch(0)
    assert np.allclose(batch["importance"], 1, rtol=1e-12)
    for name, column in bound_columns(process).items():
        assert np.allclose(batch[name], column[batch["t"]], rtol=1e-12)

    class Twice:
        importance = True

        def draw(self, step):
            return batch["t"], np.full(3, 2.0)

    training.levels = Twice()
    doubled = training.batch(0)
    assert np.allclose(doubled["weight"], 2) and np.allclose(doubled["bound_weight"], 2 / np.log(2))


@pytest.mark.parametrize(
    ("process", "out_channels", "pipeline", "said"),
    [
        (
            dict(variance="learned", loss="hybrid"),
            4,
            "DDPMPipeline",
            "only DDPMPipeline, with variance_type learned_range",
        ),
        (dict(schedule="flow", prediction="flow"), 2, "DiptychPipeline", "cannot sample"),
        (dict(schedule="edm", prediction="edm"), 2, "DiptychPipeline", "cannot sample"),
        (dict(prediction="flow"), 2, "DiptychPipeline", "cannot sample"),
    ],
)
def test_a_checkpoint_says_which_pipelines_can_sample_it(tmp_path, process, out_channels, pipeline, said):
    model = dataclasses.replace(MODEL, out_channels=out_channels)
    recipe, weights = Recipe(model, ProcessConfig(**process), sampling=SamplingConfig()), initial_weights(model, 0)
    save_checkpoint(tmp_path / "c", Checkpoint(recipe, weights, {}, {"step": 0}, {}))
    scheduler = json.loads((tmp_path / "c" / "scheduler" / "scheduler_config.json").read_text())
    assert said in (tmp_path / "c" / "README").read_text()
    assert json.loads((tmp_path / "c" / "model_index.json").read_text())["_class_name"] == pipeline
    if "variance" in process:
        assert scheduler["_class_name"] == "DDPMScheduler" and scheduler["variance_type"] == "learned_range"


@pytest.mark.diffusers
def test_diffusers_opens_a_network_of_a_learned_variance_and_its_ddpm_pipeline_samples_it(tmp_path):
    import diffusers
    import torch

    recipe = Recipe(MODEL, process_of(timesteps=20).config, sampling=SamplingConfig(steps=20))
    save_checkpoint(tmp_path / "c", Checkpoint(recipe, initial_weights(MODEL, 0), {}, {"step": 0}, {}))
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "c", low_cpu_mem_usage=False)
    assert pipeline.unet.config.out_channels == 4
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(2, num_inference_steps=20, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert images.shape == (2, 4, 6, 2) and np.isfinite(images).all()
