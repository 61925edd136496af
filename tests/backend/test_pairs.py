"""Every pair of process, prediction, sampler and condition: those that go together draw images, the others say why not."""

import itertools

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, SamplingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import SAMPLERS, make_table
from core.inference.conditioning import asked_condition, no_condition
from core.inference.sampling import Conditioned, KeyedNoise, finished, run_table
from core.networks.specs import param_specs

SHAPE = (4, 6, 1)
BASE = dict(
    sample_size=SHAPE[:2], block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    layers_per_block=1, norm_num_groups=4, mid_block_type=None,
)  # fmt: skip
NUMBERS = {"names": ["a", "b"], "mean": [0, 0], "std": [1, 1], "min": [-1, -1], "max": [1, 1], "rows": [[0.5, -0.5]]}
# condition -> the network, its classes without the one for none, what a checkpoint says of the data
CONDITIONS = {
    "none": (ModelConfig(**BASE), None, {}),
    "classes": (ModelConfig(**BASE, num_class_embeds=3), 2, {}),
    "numbers": (ModelConfig(**BASE, vector_channels=2), None, {"condition": NUMBERS}),
    "both": (ModelConfig(**BASE, num_class_embeds=3, vector_channels=2), 2, {"condition": NUMBERS}),
    "image": (ModelConfig(**BASE, in_channels=2, condition_channels=1), None, {}),
}
SCHEDULES = {
    "linear": {},
    "cosine": {},
    "zero": {"schedule": "linear", "zero_terminal_snr": True},
    "flow": {},
    "edm": {},
}
PREDICTIONS = ("eps", "x0", "v", "flow", "edm")
# What does not go together: (schedule, prediction) -> why
REFUSED = {
    ("zero", "eps"): "holds no signal",
    ("flow", "eps"): "holds no signal",
    ("flow", "v"): "v belongs to signal",
    ("edm", "v"): "v belongs to signal",
}


@pytest.fixture(scope="module")
def executors(backend):
    """One network a condition: a sampler is a table, so that none needs another trace."""
    made = {}
    for name, (model, _, _) in CONDITIONS.items():
        rng = np.random.default_rng(0)
        weights = {n: (0.2 * rng.standard_normal(s.shape)).astype(np.float32) for n, s in param_specs(model).items()}
        made[name] = backend.sampler.make_network(model, weights)
    return made


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_pair_draws_or_says_why_not(executors, schedule, prediction):
    options = {"schedule": schedule, **SCHEDULES[schedule], "prediction": prediction}
    if (schedule, prediction) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[schedule, prediction]) as error:
            make_process(ProcessConfig(60, **options))
        assert "\n" not in str(error.value)
        return
    process = make_process(ProcessConfig(60, **options))
    drawn = 0
    for sampler, (name, (_, classes, data)) in itertools.product(SAMPLERS, CONDITIONS.items()):
        condition = dict(asked_condition(classes, data, range(2), 0))
        if name == "image":
            condition["image"] = np.full((2, *SHAPE), 0.3, np.float32)
        guided = name in ("classes", "numbers", "both")
        config = SamplingConfig(sampler, 3, guidance=1.5 if guided else 1.0)
        if sampler in ("euler", "heun") and process.signal[-1] == 0:
            with pytest.raises(ValueError, match="sigma is infinite at a level without signal"):
                make_table(process, config)
            continue
        given = Conditioned(executors[name], condition)
        weak = Conditioned(executors[name], no_condition(condition, classes)) if guided else None
        noise = KeyedNoise(0, range(2), SHAPE, "float32")
        images = finished(run_table(make_table(process, config), given, noise, 2, weak))
        assert images.shape == (2, *SHAPE) and images.min() >= 0 and images.max() <= 1, (sampler, name)
        drawn += 1
    assert drawn == len(CONDITIONS) * (len(SAMPLERS) - 2 * (process.signal[-1] == 0))
