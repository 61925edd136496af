"""A distillation in the twin: the teacher's images by its network, and a student that comes nearer to them."""

import dataclasses

import numpy as np
import pytest

from core.checkpoints.trained import Trained
from core.config import DistillationConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.data.dataset import Dataset
from core.diffusion.samplers import make_table
from core.inference.sampling import Conditioned, KeyedNoise, run_table
from core.networks.specs import param_specs
from core.training.distillation import Distillation
from core.training.training import Training
from core.twin import Twin

MODEL = ModelConfig(
    sample_size=(4, 8),
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_type=None,
    num_class_embeds=3,
)
STEPS = 80
RECIPE = Recipe(
    MODEL,
    ProcessConfig(100, schedule="cosine", prediction="v"),
    training=TrainingConfig(
        STEPS, 16, accumulate=2, warmup_steps=0, learning_rate=3e-3, decay="linear", stratified=True
    ),
    sampling=SamplingConfig("ddim", 2),
    distillation=DistillationConfig("teacher", 8),
)
DATA = Dataset(
    np.random.default_rng(0).random((32, 4, 8, 1), np.float32), np.arange(32) % 3, ("a", "b", "c"), {}, np.arange(32),
    np.arange(0), {},
)  # fmt: skip


@pytest.fixture
def distillation(backend, monkeypatch):
    rng = np.random.default_rng(1)
    weights = {
        name: (0.5 * rng.standard_normal(s.shape) / np.sqrt(max(1, np.prod(s.shape[1:]))) + (s.kind == "norm")).astype(
            np.float32
        )
        for name, s in param_specs(MODEL).items()
    }
    teacher = Trained(MODEL, RECIPE.process, RECIPE.sampling, "float32", {}, 3, weights=weights)
    monkeypatch.setattr("core.training.distillation._open_teacher", lambda recipe, dataset: teacher)
    return Distillation(RECIPE, DATA, Twin(repr(backend)))


def test_the_teacher_s_steps_are_those_of_sampling(distillation):
    plain, batch = Training.batch(distillation, 0), distillation.batch(0)
    process, table = distillation.process, distillation.table
    for start, first in distillation.first_row.items():
        chosen = batch["t"] == start
        x_t = process.signal[start] * plain["x_0"][chosen] + process.noise[start] * plain["eps"][chosen]
        rows = dataclasses.replace(table, rows=table.rows[first : first + 4])
        bound = distillation.network.bind({"labels": batch["labels"][chosen]})
        landed = bound.run(rows, x_t.astype(np.float32), lambda row: None)
        keep, gain = 1.0, 0.0
        for row in rows.rows:
            keep, gain = row.matrix[0, 0] * keep, row.matrix[0, 0] * gain + row.matrix[0, 1]
        assert chosen.sum() == 8
        np.testing.assert_allclose(keep * x_t + gain * batch["x_0"][chosen], landed, atol=2e-5)


def test_a_student_comes_nearer_to_its_teacher(distillation, backend):
    noise, condition = KeyedNoise(0, range(24), (4, 8, 1), "float32"), {"labels": np.arange(24) % 3}

    def images(network, table):
        return run_table(table, Conditioned(network, condition), noise, 24)

    trainer = backend.trainer.Trainer(RECIPE)
    distillation.begin(trainer)
    teacher = images(distillation.network, distillation.table)

    def apart():
        found = images(trainer.ema_network(), make_table(distillation.process, RECIPE.sampling))
        return np.sqrt(np.mean((found - teacher) ** 2))

    before = apart()
    for step in range(STEPS):
        distillation.advance(trainer, step)
    assert apart() < 0.7 * before
    assert before > 0.02
