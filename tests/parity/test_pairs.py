"""Several images for each input from equal weights in both frameworks, by the verb; one grey level at most apart."""

import json
from pathlib import Path

import numpy as np

from core.checkpoints.checkpoint import write_pipeline
from core.checkpoints.scheduler_config import scheduler_to_diffusers
from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig
from core.config.recipes import to_dict
from core.data.__main__ import main as data_main
from core.files import write_json
from eval.parity.subject import random_weights
from eval.twins.client import run_verb

MODEL = ModelConfig(
    sample_size=(16, 24),
    in_channels=2,
    out_channels=1,
    condition_channels=1,
    patch_size=2,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
)


def test_the_twins_translate_alike_and_heed_the_input(tmp_path: Path) -> None:
    data = DataConfig(
        simulate_count=30,
        held_out=0.4,
        beside="simulate:degraded",
        beside_size=(4, 6),
        cache=str(tmp_path / "cache"),
    )
    process = ProcessConfig(200, schedule="cosine", prediction="v", stretch=0.02)
    recipe = Recipe(MODEL, process, data, sampling=SamplingConfig("dpmsolver++", 10, spacing="log_snr"))
    weights = {name: value.astype(np.float32) for name, value in random_weights(recipe).items()}
    run = tmp_path / "run"
    run.mkdir()
    write_pipeline(run, MODEL, weights, scheduler_to_diffusers(recipe.process, recipe.sampling))
    write_json(run / "recipe.json", to_dict(recipe))
    write_json(run / "data.json", {})
    for name, flags in {"straight": [], "shuffled": ["--shuffle"]}.items():
        words = ["pairs", str(run), "--n", "4", *flags, "--out", str(tmp_path / name)]
        assert data_main(words) == 0
    drawn = {}
    for framework in ("torch", "tensorflow"):
        for name in ("straight", "shuffled"):
            out = tmp_path / f"{framework}-{name}"
            words = ["edit", "translate", str(run), str(tmp_path / name / "inputs.npy"), "--n", "4", "--draws", "3"]
            run_verb(framework, [*words, "--out", str(out), "--threads", "1"])
            drawn[framework, name] = np.load(out / "draws.npy")
            assert json.loads((out / "manifest.json").read_text())["framework"] == framework
    for name in ("straight", "shuffled"):
        ours, theirs = (drawn[framework, name] for framework in ("torch", "tensorflow"))
        assert ours.shape == theirs.shape == (4, 3, 16, 24, 1) and ours.std() > 0.05
        assert np.abs(np.rint(ours * 255) - np.rint(theirs * 255)).max() <= 1
        assert np.abs(ours - theirs).max() * 255 < 0.1
    assert np.abs(drawn["torch", "straight"] - drawn["torch", "shuffled"]).max() * 255 > 5
