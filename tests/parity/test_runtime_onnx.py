"""`sample --runtime onnx` against both frameworks' own images, by the command line."""

import json
import os
import subprocess

import numpy as np
import pytest

from core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.networks.specs import param_specs
from eval.twins.interpreters import THREAD_VARIABLES, find_python

CONFIG = ModelConfig(
    (8, 12),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    num_class_embeds=4,
)


def sample(framework, checkpoint, out, *flags):
    """Images and manifest of one call."""
    package = {"torch": "torch_impl", "tensorflow": "tf_impl"}[framework]
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = ["sample", checkpoint, "--n", "5", "--guidance", "2", "--seed", "3", "--out", out, *flags]
    python = find_python(framework if "--runtime" not in flags else "torch")
    done = subprocess.run([*python, "-m", package, *map(str, words)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(out / "samples.npy"), json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_the_images_are_those_of_the_framework(framework, tmp_path):
    """The onnx runtime imports no framework, so that TensorFlow's command line runs it in the PyTorch environment."""
    rng = np.random.default_rng(0)
    specs = param_specs(CONFIG).items()
    weights = {n: (0.1 * rng.standard_normal(s.shape) + (s.kind == "norm")).astype(np.float32) for n, s in specs}
    recipe = Recipe(
        CONFIG,
        ProcessConfig(timesteps=100, prediction="v"),
        training=TrainingConfig(condition_dropout=0.1),
        sampling=SamplingConfig("ddpm", 8),
    )
    save_checkpoint(tmp_path / "run", Checkpoint(recipe, weights, {}, {"step": 1}, {}))
    own, said = sample(framework, tmp_path / "run", tmp_path / "own")
    onnx, onnx_said = sample(framework, tmp_path / "run", tmp_path / "onnx", "--runtime", "onnx")
    assert own.std() > 0.1 and np.abs(own - onnx).max() * 255 < 0.01
    assert onnx_said["framework"] == "onnxruntime" and said["framework"] == framework
    differ = {"framework", "version", "keras", "device", "threads", "seconds"}
    assert {k: v for k, v in said.items() if k not in differ} == {k: v for k, v in onnx_said.items() if k not in differ}
