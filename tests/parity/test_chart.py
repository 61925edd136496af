"""Matrices in both twins: one checkpoint, the same draws in the chart and as matrices, and the chart there and back."""

import os
import subprocess

import numpy as np

from core.checkpoints.trained import open_trained
from core.spd.chart import coordinates
from eval.twins.interpreters import FRAMEWORKS, PACKAGES, ROOT, THREAD_VARIABLES, find_python
from tests.core.test_spd_space import TEXT

CHART_FLOAT64 = 1e-10
"""Largest difference of whitened coordinates after 1,000 steps of DDPM in float64; log X differs by as little."""
SMALL = ("--training.dtype", "float64", "--training.sample-count", 0)


def test_one_checkpoint_draws_the_same_matrices_in_both(tmp_path):
    text = TEXT.replace("CACHE", str(tmp_path / "cache")).replace("timesteps = 50", 'prediction = "v"')
    text = text.replace("[training]", "[training]\nlearning_rate = 0.05")  # weights far from zero after some steps
    (tmp_path / "spd.toml").write_text(text)
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def call(framework, *words):
        command = [*find_python(framework), "-m", PACKAGES[framework], *words]
        done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run = tmp_path / "run"
    call("torch", "train", "--config", tmp_path / "spd.toml", "--run", run, "--training.steps", 6, *SMALL)
    call("tensorflow", "train", "--resume", run, "--training.steps", 8)
    call("torch", "train", "--resume", run, "--training.steps", 10)
    draws = {}
    for framework in FRAMEWORKS:
        out = tmp_path / framework
        call(framework, "sample", run, "--sampler", "ddpm", "--steps", 1000, "--n", 8, "--out", out)
        draws[framework] = np.load(out / "samples.npy")
    trained = open_trained(run / "checkpoints" / "step-00000010")
    assert np.abs(trained.weights["proj_out.weight"]).max() > 0.01 and trained.dtype == "float64"
    v = {framework: trained.chart.encode(matrices) for framework, matrices in draws.items()}
    assert v["torch"].std() > 0.3
    assert np.abs(v["torch"] - v["tensorflow"]).max() < CHART_FLOAT64
    assert np.abs(coordinates(draws["torch"]) - coordinates(draws["tensorflow"])).max() < CHART_FLOAT64
    charts = [path / "chart.safetensors" for path in sorted((run / "checkpoints").iterdir())]
    assert len({path.read_bytes() for path in charts}) == 1
