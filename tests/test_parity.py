"""The parity ladder between the frameworks: one worker each, the same arrays into both, rung by rung.

Rungs 1, 3 and 4 are held against NumPy in the tests of each twin. What is measured is kept with each test's result
(`--junit-xml`, or `-rA`).
"""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig, to_dict
from core.data.dataset import Dataset
from core.diffusion.noise import gaussian
from core.diffusion.process import make_process
from core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.model.unet_spec import param_specs
from core.training.batches import make_batch
from eval.parity.closeness import require_close
from eval.parity.configurations import CONFIGURATIONS
from eval.parity.tolerances import (
    EXACT,
    GRADIENT_FLOAT32,
    GRADIENT_FLOAT64,
    GRADIENT_FLOOR,
    GREY_LEVELS,
    NETWORK_FLOAT32,
    NETWORK_FLOAT64,
    RESUMED_FLOAT64,
)
from eval.twins import Worker

TINY = ModelConfig(
    sample_size=(8, 12), block_out_channels=(8, 8), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
)  # fmt: skip
# Attention on every level, resampling residual blocks, scale and shift, heads, classes, three channels; the rest is slow.
QUICK = ("network-10",)


def some_slow(names) -> list:
    """All names, those that are not in QUICK marked slow."""
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


@pytest.fixture(scope="module")
def twins() -> Iterator[dict[str, Worker]]:
    with Worker("torch", threads=1) as torch, Worker("tensorflow", threads=1) as tensorflow:
        yield {"torch": torch, "tensorflow": tensorflow}


@pytest.fixture
def measured(record_property):
    """Keep a measured difference with the test's result."""

    def record(what: str, value: float) -> None:
        record_property(what, f"{value:.2e}")
        print(f"{what}: {value:.2e}")

    return record


def both(twins: dict[str, Worker], task: str, arrays: dict, **options):
    """The arrays that a task gives in each framework, PyTorch first."""
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(twin.call, task, arrays, **options) for twin in twins.values()]
    return [call.result()[0] for call in calls]


def random_weights(config: ModelConfig, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Weights without zeros or symmetry, of a size that keeps activations near 1."""
    rng = np.random.default_rng(7)
    weights = {}
    for name, spec in param_specs(config).items():
        values = rng.standard_normal(spec.shape)
        scale = 0.1 if len(spec.shape) < 2 else 1 / np.sqrt(np.prod(spec.shape[1:]))
        weights[name] = ((spec.init == "ones") + scale * values).astype(dtype)
    return weights


def under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def part(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{prefix}/"): v for name, v in arrays.items() if name.startswith(f"{prefix}/")}


def require_all_close(found, expected, tolerance: float, what: str, floor: float = GRADIENT_FLOOR) -> float:
    """Every tensor, relative to its own largest value; below the floor, where all is rounding, to the largest of all."""
    assert found.keys() == expected.keys() and found
    largest = max(float(np.abs(value).max()) for value in expected.values())
    worst = 0.0
    for name, value in expected.items():
        if np.abs(value).max() > floor:
            worst = max(worst, require_close(found[name], value, tolerance, f"{what} of {name}"))
        else:
            assert np.abs(found[name] - value).max() <= tolerance * largest, f"{what} of {name}"
    return worst


# Rungs 2 and 5: the network


def outputs(twins, config: ModelConfig, dtype: str):
    """(PyTorch's, TensorFlow's) output of a network for one input."""
    rng = np.random.default_rng(1)
    arrays = {
        **under("weights", random_weights(config)),
        "x": rng.standard_normal((2, *config.sample_size, config.in_channels)),
        "t": np.array([3, 997]),
    }
    if config.num_class_embeds:
        arrays["labels"] = np.array([0, config.num_class_embeds - 1])
    return [result["output"] for result in both(twins, "forward", arrays, model=to_dict(config), dtype=dtype)]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_network_gives_the_same_output(twins, measured, name):
    torch, tensorflow = outputs(twins, CONFIGURATIONS[name], "float64")
    measured("output", require_close(tensorflow, torch, NETWORK_FLOAT64, name, "float64"))


@pytest.mark.parametrize("name", some_slow(CONFIGURATIONS))
def test_every_network_gives_the_same_output_in_float32(twins, measured, name):
    torch, tensorflow = outputs(twins, CONFIGURATIONS[name], "float32")
    measured("output", require_close(tensorflow, torch, NETWORK_FLOAT32, name, "float32"))


# Rung 6, first half: the loss and its gradients


def recipe_of(model: ModelConfig, **training) -> Recipe:
    config = {"batch_size": 4, "seed": 5, "dtype": "float64", **training}
    return Recipe(model, ProcessConfig(), training=TrainingConfig(**config))


def images_for(recipe: Recipe, count: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    arrays = {"images": rng.random((count, *recipe.image_shape), np.float32)}
    if recipe.model.num_class_embeds:
        arrays["labels"] = np.arange(count) % recipe.model.num_class_embeds
    return arrays


def gradients(twins, recipe: Recipe):
    """Each framework's loss and gradients on the recipe's first batch."""
    arrays = images_for(recipe)
    count = len(arrays["images"])
    dataset = Dataset(arrays["images"], arrays.get("labels"), (), {}, np.arange(count), np.arange(0), {})
    batch = make_batch(recipe, make_process(recipe.process), dataset, 0)
    weights = random_weights(recipe.model, recipe.training.dtype)
    return both(twins, "gradients", under("weights", weights) | under("batch", batch), recipe=to_dict(recipe))


@pytest.mark.parametrize("name", some_slow(CONFIGURATIONS))
def test_every_parameter_has_the_same_gradient(twins, measured, name):
    recipe = recipe_of(CONFIGURATIONS[name])
    torch, tensorflow = gradients(twins, recipe)
    specs = {key: spec.shape for key, spec in param_specs(recipe.model).items()}
    for result in (torch, tensorflow):  # rung 2: names and shapes, none missing, none left over
        assert {key: value.shape for key, value in part("grad", result).items()} == specs
    measured("loss", require_close(tensorflow["loss"], torch["loss"], GRADIENT_FLOAT64, "loss"))
    worst = require_all_close(part("grad", tensorflow), part("grad", torch), GRADIENT_FLOAT64, "gradient")
    measured("gradients", worst)


def test_gradients_in_float32(twins, measured):
    recipe = recipe_of(TINY)
    exact = part("grad", gradients({"torch": twins["torch"]}, recipe)[0])
    single = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, dtype="float32"))
    for name, result in zip(("torch", "tensorflow"), gradients(twins, single), strict=True):
        found = {key: value.astype(np.float64) for key, value in part("grad", result).items()}
        measured(name, require_all_close(found, exact, GRADIENT_FLOAT32, f"{name}'s float32 gradient"))


# Rung 6, second half, rungs 7 and 8: training


PARTS = ("params", "ema", "exp_avg", "exp_avg_sq")


def trained(twin: Worker, recipe: Recipe, first: int, steps: int, state=None, counters=None):
    """Arrays and counters after some optimiser steps, from the seed or from a state."""
    arrays = images_for(recipe) | (state or {})
    result, info = twin.call("train", arrays, recipe=to_dict(recipe), first=first, steps=steps, counters=counters)
    return result, info["counters"]


@pytest.fixture(scope="module")
def long_recipe() -> Recipe:
    """Clipping that acts, warm-up, decay, EMA, accumulation, weight decay."""
    return recipe_of(
        TINY, steps=20, batch_size=6, accumulate=2, optimizer="adamw", weight_decay=0.1, learning_rate=2e-3, clip_norm=0.5,
        warmup_steps=5, decay="cosine", final_fraction=0.1, ema_decay=0.9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def halves(twins, long_recipe):
    """Ten steps in each framework."""
    return {name: trained(twin, long_recipe, 0, 10) for name, twin in twins.items()}


@pytest.fixture(scope="module")
def wholes(twins, long_recipe):
    """Twenty steps in each framework."""
    return {name: trained(twin, long_recipe, 0, 20) for name, twin in twins.items()}


def test_twenty_steps_of_training_are_the_same(wholes, long_recipe, measured):
    (torch, counters), (tensorflow, others) = wholes["torch"], wholes["tensorflow"]
    assert counters == others == {"adam_steps": 20, "skipped": 0, "skipped_in_a_row": 0}
    assert (torch["grad_norm"] > long_recipe.training.clip_norm).any()  # the clip acts
    for name in ("loss", "grad_norm"):
        measured(name, require_close(tensorflow[name], torch[name], GRADIENT_FLOAT64, name))
    for name in PARTS:
        measured(name, require_all_close(part(name, tensorflow), part(name, torch), GRADIENT_FLOAT64, name))
    # Training moved the weights, and their average is another thing.
    assert np.abs(torch["params/conv_in.weight"] - torch["ema/conv_in.weight"]).max() > 1e-5
    assert np.abs(torch["params/conv_out.weight"]).max() > 1e-3


@pytest.mark.parametrize(("first", "second"), [("torch", "tensorflow"), ("tensorflow", "torch")])
def test_a_run_goes_on_in_the_other_framework(twins, halves, wholes, long_recipe, measured, first, second):
    state, counters = halves[first]
    found, counters = trained(twins[second], long_recipe, 10, 10, state, counters)
    expected, _ = wholes[first]
    assert counters["adam_steps"] == 20
    measured("loss", require_close(found["loss"], expected["loss"][10:], RESUMED_FLOAT64, "loss"))
    for name in PARTS:
        measured(name, require_all_close(part(name, found), part(name, expected), RESUMED_FLOAT64, name))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_checkpoint_through_both_frameworks_is_bit_exact(twins, halves, long_recipe, tmp_path, dtype):
    recipe = dataclasses.replace(long_recipe, training=dataclasses.replace(long_recipe.training, dtype=dtype))
    state, counters = halves["torch"]
    start = {key: value.astype(dtype) for key, value in state.items() if "/" in key}
    for number, name in enumerate(("torch", "tensorflow", "torch")):
        folder = tmp_path / f"{number}-{name}"
        raw = {key: value for key, value in state.items() if key.split("/")[0] in PARTS[:1] + PARTS[2:]}
        raw = {key: value.astype(dtype) for key, value in raw.items()}
        ema = {key: value.astype(dtype) for key, value in part("ema", state).items()}
        save_checkpoint(folder, Checkpoint(recipe, ema, raw, {"step": 10, "counters": counters}, {}))
        stored = load_checkpoint(folder)
        given = under("ema", stored.ema) | stored.state
        state, counters = trained(twins[name], recipe, 10, 0, given, stored.progress["counters"])
    assert counters == halves["torch"][1]
    assert {key for key in state if "/" in key} == start.keys()
    for key, value in start.items():
        require_close(state[key], value, EXACT, key)


# Rung 9: images


def draw(twins, sampling: SamplingConfig, first: int, n: int):
    """(PyTorch's, TensorFlow's) images of seed 11, whose starting noise must be bit-equal."""
    recipe = Recipe(TINY, sampling=sampling, training=TrainingConfig(dtype="float32"))
    weights = under("weights", random_weights(TINY, "float32"))
    results = both(twins, "sample", weights, recipe=to_dict(recipe), seed=11, first=first, n=n)
    x_T = gaussian(11, "x_T", range(first, first + n), 0, recipe.image_shape, "float32")
    for result in results:
        require_close(result["x_T"], x_T, EXACT, "x_T")
        assert result["images"].shape == (n, *recipe.image_shape) and result["images"].dtype == np.float32
    return [result["images"] for result in results]


def grey_levels(found: np.ndarray, expected: np.ndarray) -> int:
    """Largest difference in grey levels of 255; there must be a picture to compare."""
    assert found.shape == expected.shape and np.isfinite(found).all() and expected.std() > 0.05
    return int(np.abs(np.rint(found * 255.0) - np.rint(expected * 255.0)).max())


# Sampler, and the other (batch size, first image, number of images) that it is drawn with.
SAMPLERS = {
    "ddim": (SamplingConfig("ddim", 50), ((7, 3, 15), (1, 61, 3))),
    "dpmsolver++": (SamplingConfig("dpmsolver++", 20), ((1, 9, 3),)),
    "ddim with noise": (SamplingConfig("ddim", 20, eta=1.0), ((7, 50, 14),)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_images_are_the_same_whatever_the_framework_batch_and_range(twins, measured, name):
    sampling, others = SAMPLERS[name]
    wholes = draw(twins, dataclasses.replace(sampling, batch_size=64), 0, 64)
    torch, tensorflow = wholes
    measured("frameworks, in grey levels", float(np.abs(tensorflow - torch).max()) * 255)
    assert grey_levels(tensorflow, torch) <= GREY_LEVELS
    for batch_size, first, n in others:
        parts = draw(twins, dataclasses.replace(sampling, batch_size=batch_size), first, n)
        for twin, images, whole in zip(("torch", "tensorflow"), parts, wholes, strict=True):
            whole = whole[first : first + n]
            measured(f"{twin}, batches of {batch_size} against 64", float(np.abs(images - whole).max()) * 255)
            assert grey_levels(images, whole) <= GREY_LEVELS
    assert grey_levels(torch[:32], torch[32:]) > 20  # other samples are other images


@pytest.mark.slow
def test_a_thousand_steps_of_ddpm_give_the_same_images(twins, measured):
    torch, tensorflow = draw(twins, SamplingConfig("ddpm", 1000), 0, 8)
    measured("grey levels", float(np.abs(tensorflow - torch).max()) * 255)
    assert grey_levels(tensorflow, torch) <= GREY_LEVELS
