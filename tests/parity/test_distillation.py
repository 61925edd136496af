"""The first steps of a distillation in both frameworks, in float64, from a teacher on disk."""

import dataclasses

import numpy as np
import pytest

from core.checkpoints.checkpoint import write_pipeline
from core.checkpoints.scheduler_config import scheduler_to_diffusers
from core.config import DistillationConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.recipes import to_dict
from core.files import write_json
from core.networks.specs import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import LOSS_FLOAT64

MODEL = ModelConfig(
    sample_size=(8, 12),
    block_out_channels=(8, 8),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    mid_block_type=None,
    num_class_embeds=4,
)
RECIPE = Recipe(
    MODEL,
    ProcessConfig(100, schedule="cosine", prediction="v"),
    training=TrainingConfig(
        steps=3, batch_size=4, accumulate=2, warmup_steps=0, learning_rate=1e-3, condition_dropout=0.3, dtype="float64"
    ),
    sampling=SamplingConfig("ddim", 4),
)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_twins_distil_alike(twins, tmp_path, guidance):
    rng = np.random.default_rng(0)
    specs = param_specs(MODEL)
    weights = {n: 0.2 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in specs.items()}
    write_pipeline(tmp_path, MODEL, weights, scheduler_to_diffusers(RECIPE.process, RECIPE.sampling))
    write_json(tmp_path / "recipe.json", to_dict(RECIPE))
    write_json(tmp_path / "data.json", {})
    recipe = dataclasses.replace(RECIPE, distillation=DistillationConfig(str(tmp_path), 8, guidance))
    arrays = {"images": rng.random((6, 8, 12, 1)), "labels": np.arange(6) % 3}
    (ours, _), (theirs, _) = twins.both("train", arrays, recipe=to_dict(recipe), steps=3)
    require_close(ours["loss"], theirs["loss"], LOSS_FLOAT64, "loss")
    start = np.concatenate([w.ravel() for w in weights.values()])
    for found in (ours, theirs):
        moved = np.concatenate([found[f"params/{name}"].ravel() for name in weights]) - start
        assert 1e-4 < np.abs(moved).max() < 5e-3  # three steps of Adam from the teacher's weights
