"""Both twins draw the same images from the posterior of a measurement, with equal weights, in float64."""

import os
import subprocess

import numpy as np
import pytest

from core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.networks.specs import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import SAMPLER_FLOAT64
from eval.twins.interpreters import FRAMEWORKS, PACKAGES, ROOT, THREAD_VARIABLES, find_python

MODEL = ModelConfig(
    (8, 12),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
)
PROGRAM = """
import importlib, sys
import numpy as np
from core.inference.measuring import read_operator
edit = importlib.import_module(sys.argv[1]).load(sys.argv[2]).edit
how = {"pigdm": {"steps": 6}, "dps": {"steps": 8, "step": 0.5}}
found = {}
for name in ("blur:1.1", "downscale:2"):
    operator = read_operator(name, (8, 12))
    y = operator.forward(np.random.default_rng(0).random((2, 8, 12, 1)))
    for method in how:
        found[f"{name} {method}"] = edit.solve(y, operator, 0.05, method, 2, **how[method], batch_size=3).images
np.savez(sys.argv[3], **found)
"""


@pytest.mark.cross
def test_both_twins_draw_the_same_images(tmp_path):
    rng = np.random.default_rng(0)
    weights = {n: 0.1 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in param_specs(MODEL).items()}
    process = ProcessConfig(timesteps=100, prediction="v", stretch=0.02)
    recipe = Recipe(MODEL, process, training=TrainingConfig(dtype="float64"), sampling=SamplingConfig("ddim", 8))
    save_checkpoint(tmp_path / "run", Checkpoint(recipe, weights, {}, {"step": 1}, {}))
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    images = {}
    for framework in FRAMEWORKS:
        words = [*find_python(framework), "-c", PROGRAM, PACKAGES[framework], tmp_path / "run", tmp_path / framework]
        done = subprocess.run(
            [*map(str, words)], cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        images[framework] = dict(np.load(f"{tmp_path / framework}.npz"))
    assert len(images["torch"]) == 4
    for name, found in images["torch"].items():
        assert found.shape == (2, 2, 8, 12, 1) and found.std() > 0.05 and np.abs(found[:, 0] - found[:, 1]).max() > 0.01
        require_close(images["tensorflow"][name], found, SAMPLER_FLOAT64, name)
