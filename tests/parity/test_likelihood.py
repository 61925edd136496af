"""Bits per dimension of the same images, weights and noise in both frameworks, in float64."""

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig
from core.config.recipes import to_dict
from core.networks.specs import param_specs
from eval.parity.closeness import require_close
from eval.parity.tolerances import NETWORK_FLOAT64

MODEL = ModelConfig(
    sample_size=(4, 8),
    block_out_channels=(8, 8),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    mid_block_type=None,
    num_class_embeds=3,
)


@pytest.mark.parametrize(
    ("method", "how", "channels"),
    [
        ("vlb", {"levels": 12}, 1),
        ("vlb", {"variance": "fixed_large", "clip": False}, 1),
        ("vlb", {"variance": "learned", "levels": 12}, 2),
        pytest.param("ode", {"steps": 6}, 1, marks=pytest.mark.slow),
        pytest.param(
            "ode", {"steps": 4, "probe": "normal", "probes": 2, "dequantise": False}, 2, marks=pytest.mark.slow
        ),
        ("ode", {"steps": 2, "probe": "exact"}, 1),
    ],
)
def test_the_twins_give_the_same_bits(twins, method, how, channels):
    model = {**to_dict(MODEL), "out_channels": channels}
    rng = np.random.default_rng(0)
    specs = param_specs(ModelConfig(**{**MODEL.__dict__, "out_channels": channels}))
    weights = {f"weights/{n}": 0.2 * rng.standard_normal(s.shape) + (s.kind == "norm") for n, s in specs.items()}
    arrays = {**weights, "images": rng.random((3, 4, 8, 1)), "condition/labels": np.array([2, 0, 1])}
    learned = {"variance": "learned", "loss": "hybrid"} if channels == 2 else {}
    process = to_dict(ProcessConfig(40, beta_end=0.3, prediction="v", **learned))
    options = dict(model=model, process=process, dtype="float64", method=method, batch_size=2, how=how)
    (ours, _), (theirs, _) = twins.both("likelihood", arrays, **options)
    assert ours.keys() == theirs.keys()
    for name in ours:
        require_close(ours[name], theirs[name], NETWORK_FLOAT64, name)
    assert np.abs(ours["total"]).min() > 0.1 and ours["total"].std() > 1e-3
