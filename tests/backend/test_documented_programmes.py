"""The Python of README.md and docs/python.md, run as it is written, in either framework, on tiny networks."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from core.config import Recipe
from core.config.recipes import from_dict
from core.data.__main__ import main as data_main

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = ("theta_e", "gamma1", "source_x", "source_y")


def recipe(data=None, **model) -> Recipe:
    """A tiny recipe: six steps on 8 x 8 simulated lenses."""
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"sample_size": (8, 8), "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    training = {
        "steps": 6,
        "batch_size": 4,
        "warmup_steps": 2,
        "log_every": 2,
        "checkpoint_every": 6,
        "sample_count": 0,
    }
    conditional = {"condition_dropout": 0.1} if "vector_channels" in model else {}
    return from_dict(
        Recipe,
        {
            "model": {**blocks, **sizes, "mid_block_type": None, **model},
            "process": {"timesteps": 20, "prediction": "v", "schedule": "cosine"},
            "data": {"simulate_count": 40, "cache": "cache", **(data or {})},
            "training": {**training, **conditional},
            "sampling": {"steps": 3},
        },
    )


def code_of(page: str, package: str) -> list[str]:
    """The Python blocks of a page that use the library, for one of the twins."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(r"\btorch_impl\b", package, block) for block in blocks if "make_table" not in block]


@pytest.fixture
def names(backend, tmp_path, monkeypatch):
    """What a user would have at hand; load_recipe gives the tiny recipe in place of the demo's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    package = importlib.import_module(repr(backend))
    monkeypatch.setattr(package, "load_recipe", lambda path: Path(path).stat() and recipe())
    hole = np.zeros((8, 8), bool)
    hole[2:5, 3:7] = True
    return {"hole": hole, "small": np.random.default_rng(0).random((2, 4, 4, 1))}


def test_the_readme_trains_loads_samples_and_saves(backend, names, tmp_path):
    (code,) = code_of("README.md", repr(backend))
    exec(code, names)
    images = np.load(tmp_path / "images.npy")
    assert images.shape == (16, 8, 8, 1) and images.min() >= 0 and images.max() <= 1 and images.std() > 0


@pytest.mark.slow
def test_the_page_of_the_library(backend, names, tmp_path):
    package = importlib.import_module(repr(backend))
    package.train(recipe(), "runs/mine")
    package.train(recipe({"condition": PARAMETERS}, num_class_embeds=4, vector_channels=4), "runs/conditional")
    low = {"low_resolution": 2}
    package.train(recipe(low, in_channels=2, condition_channels=1), "runs/upscale")
    run = 0
    for block in code_of("docs/python.md", repr(backend)):
        if 'train(recipe, "runs/mine")' in block:
            block = block.replace("runs/mine", "runs/another")  # a run's folder must be new
        for statement in ast.parse(block).body:
            text = ast.unparse(statement)
            conditional = "class_name" in text or "theta_e" in text
            beside = "upscale" in text or "translate" in text
            folder = "conditional" if conditional else "upscale" if beside else None
            own = {"generator": package.load(f"runs/{folder}")} if folder else {}
            scope = {**names, **own}
            if "onnx" in text and not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
                with pytest.raises(ValueError, match="pip install onnx"):
                    exec(text, scope)
            else:
                exec(text, scope)
            names |= {name: value for name, value in scope.items() if name not in own}
            run += 1
            if conditional:
                assert names["images"].shape == (16, 8, 8, 1)
    assert run > 15
    assert np.isfinite(names["bits"]["total"]).all() and names["edited"].images.shape == (16, 8, 8, 1)
    assert names["metrics"].keys() >= {"loss", "grad_norm", "lr"} and names["step"] == 6


def test_the_page_of_pairs(backend, names, tmp_path):
    package = importlib.import_module(repr(backend))
    data = {"beside": "simulate:degraded", "beside_size": [4, 4], "held_out": 0.6}
    package.train(recipe(data, in_channels=2, condition_channels=1), "runs/pairs")
    assert data_main(["pairs", "runs/pairs", "--n", "16", "--out", "data/lens-pairs"]) == 0
    (code,) = code_of("docs/pairs.md", repr(backend))
    exec(code, names)
    assert names["edited"].images.shape == (16, 8, 8, 8, 1) and names["images"].shape == (16, 8, 8, 1)
    assert names["edited"].facts == {"draws": 8}
