"""Every pair of process, prediction, sampler and condition draws images or is refused by name."""

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
    sample_size=SHAPE[:2],
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_type=None,
)
NUMBERS = {"names": ["a", "b"], "mean": [0, 0], "std": [1, 1], "min": [-1, -1], "max": [1, 1], "rows": [[0.5, -0.5]]}
# Condition -> the network, its classes without the unconditional one, and a checkpoint's record of the data.
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
REFUSED = {("zero", "eps"), ("flow", "eps"), ("flow", "v"), ("edm", "v")}


@pytest.fixture(scope="module")
def executors(backend):
    """One network a condition: a sampler is a table, so that none needs another trace."""
    made = {}
    for name, (model, _, _) in CONDITIONS.items():
        rng = np.random.default_rng(0)
        weights = {n: (0.2 * rng.standard_normal(s.shape)).astype(np.float32) for n, s in param_specs(model).items()}
        made[name] = backend.sampler.make_network(model, weights)
    return made


PAIRS = list(itertools.product(SCHEDULES, PREDICTIONS))


def process_config(schedule: str, prediction: str) -> ProcessConfig:
    return ProcessConfig(60, **{"schedule": schedule, **SCHEDULES[schedule], "prediction": prediction})


@pytest.mark.parametrize(("schedule", "prediction"), sorted(REFUSED))
def test_a_prediction_that_its_schedule_does_not_have_is_refused_in_one_line(schedule, prediction):
    with pytest.raises(ValueError, match=rf"prediction = '{prediction}'") as error:
        make_process(process_config(schedule, prediction))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sampler", ("euler", "heun"))
@pytest.mark.parametrize("schedule", ("zero", "flow"))
def test_a_sampler_over_sigma_is_refused_where_sigma_is_infinite(schedule, sampler):
    with pytest.raises(ValueError, match=rf"'{sampler}'.*sigma"):
        make_table(make_process(process_config(schedule, "x0")), SamplingConfig(sampler, 3))


@pytest.mark.parametrize("share", ["conditions in turn", pytest.param("all conditions", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("schedule", "prediction"), [pair for pair in PAIRS if pair not in REFUSED])
def test_every_sampler_draws_under_every_process_and_condition(executors, schedule, prediction, share):
    """In turn, each sampler, schedule and prediction meets each condition in one of these tests."""
    process, place = (
        make_process(process_config(schedule, prediction)),
        sum(divmod(PAIRS.index((schedule, prediction)), 5)),
    )
    sigma = ("euler", "heun") if process.signal[-1] == 0 else ()
    for i, sampler in enumerate(sampler for sampler in SAMPLERS if sampler not in sigma):
        for name in [list(CONDITIONS)[(place + i) % 5]] if share == "conditions in turn" else CONDITIONS:
            _, classes, data = CONDITIONS[name]
            condition = dict(asked_condition(classes, data, range(2), 0))
            if name == "image":
                condition["image"] = np.full((2, *SHAPE), 0.3, np.float32)
            guided = name in ("classes", "numbers", "both")
            table = make_table(process, SamplingConfig(sampler, 3, guidance=1.5 if guided else 1.0))
            given = Conditioned(executors[name], condition)
            weak = Conditioned(executors[name], no_condition(condition, classes)) if guided else None
            images = finished(run_table(table, given, KeyedNoise(0, range(2), SHAPE, "float32"), 2, weak))
            assert images.shape == (2, *SHAPE) and images.min() >= 0 and images.max() <= 1, (sampler, name)
