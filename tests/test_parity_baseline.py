"""The baseline network between the frameworks: layers, output, gradients, training steps and images.

PyTorch's is held against the original in tests/test_backend_baseline.py; here TensorFlow's is held against PyTorch's.
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
from core.model.unet_spec import param_specs
from core.training.batches import make_batch
from eval.parity.closeness import require_close
from eval.parity.tolerances import (
    EXACT,
    GRADIENT_FLOAT64,
    GRADIENT_FLOOR,
    GREY_LEVELS,
    LAYER_FLOAT32,
    LAYER_FLOAT64,
    NETWORK_FLOAT32,
    NETWORK_FLOAT64,
)
from eval.twins import Worker

# Two channels, not square, classes: one network has all that the baseline knows.
CONFIG = ModelConfig(
    (8, 16), 2, 2, block_out_channels=(8, 16, 32, 32), num_class_embeds=3, architecture="baseline"
)  # fmt: skip
RECIPE = Recipe(CONFIG, training=TrainingConfig(batch_size=4, accumulate=2, seed=5, dtype="float64", clip_norm=0.5,
                                                warmup_steps=2, optimizer="adamw", weight_decay=0.1))  # fmt: skip


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


def stressed(dtype: str = "float64", config: ModelConfig = CONFIG) -> dict[str, np.ndarray]:
    """Weights without zeros or symmetry, norms around 1."""
    rng = np.random.default_rng(7)
    weights = {}
    for name, spec in param_specs(config).items():
        scale = 0.1 if len(spec.shape) < 2 else 1 / np.sqrt(np.prod(spec.shape[1:]))
        weights[f"weights/{name}"] = ((spec.kind == "norm") + scale * rng.standard_normal(spec.shape)).astype(dtype)
    return weights


def inputs(size: tuple[int, int], dtype: str) -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((2, *size, CONFIG.in_channels)).astype(dtype)
    return {"x": x, "t": np.array([3, 997]), "labels": np.array([0, 2])}


def part(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{prefix}/"): v for name, v in arrays.items() if name.startswith(f"{prefix}/")}


def require_all_close(found, expected, tolerance: float, what: str) -> float:
    """Every tensor, relative to its own largest value; where that is rounding, to the largest of all."""
    assert found.keys() == expected.keys() and found
    largest = max(float(np.abs(value).max()) for value in expected.values())
    worst = 0.0
    for name, value in expected.items():
        if np.abs(value).max() > GRADIENT_FLOOR:
            worst = max(worst, require_close(found[name], value, tolerance, f"{what} of {name}"))
        else:
            assert np.abs(found[name] - value).max() <= tolerance * largest, f"{what} of {name}"
    return worst


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", LAYER_FLOAT64), ("float32", LAYER_FLOAT32)])
def test_every_layer_alone_gives_the_same(twins, measured, dtype, tolerance):
    arrays, options = {**stressed(dtype), **inputs((8, 16), dtype)}, {"model": to_dict(CONFIG), "dtype": dtype}
    traced, _ = twins["torch"].call("trace_layers", arrays, **options)
    replayed, _ = twins["tensorflow"].call("replay_layers", {**stressed(dtype), **traced}, **options)
    expected, found = part("out", traced), part("out", replayed)
    assert {"down1.maxpool_conv.1.double_conv.0", "up3", "sa6.mha", "sa1.ff_self.0", "label_emb"} <= expected.keys()
    measured("layer", require_all_close(found, expected, tolerance, "output"))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", NETWORK_FLOAT64), ("float32", NETWORK_FLOAT32)])
@pytest.mark.parametrize("size", [(8, 16), (24, 8), (32, 32)])
def test_the_network_gives_the_same_output(twins, measured, size, dtype, tolerance):
    arrays = {**stressed(dtype), **inputs(size, dtype)}
    torch, tensorflow = both(twins, "forward", arrays, model=to_dict(CONFIG), dtype=dtype)
    measured("output", require_close(tensorflow["output"], torch["output"], tolerance, str(size), dtype))


def images(count: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {"images": rng.random((count, *RECIPE.image_shape), np.float32), "labels": np.arange(count) % 3}


def test_every_parameter_has_the_same_gradient(twins, measured):
    data = images()
    dataset = Dataset(data["images"], data["labels"], (), {}, np.arange(12), np.arange(0), {})
    batch = make_batch(RECIPE, make_process(RECIPE.process), dataset, 0)
    arrays = {**stressed(), **{f"batch/{key}": value for key, value in batch.items()}}
    torch, tensorflow = both(twins, "gradients", arrays, recipe=to_dict(RECIPE))
    specs = {name: spec.shape for name, spec in param_specs(CONFIG).items()}
    for result in (torch, tensorflow):
        assert {name: value.shape for name, value in part("grad", result).items()} == specs
    measured("loss", require_close(tensorflow["loss"], torch["loss"], GRADIENT_FLOAT64, "loss"))
    worst = require_all_close(part("grad", tensorflow), part("grad", torch), GRADIENT_FLOAT64, "gradient")
    measured("gradients", worst)


@pytest.mark.slow
def test_three_steps_of_training_are_the_same(twins, measured):
    torch, tensorflow = both(twins, "train", images(), recipe=to_dict(RECIPE), first=0, steps=3)
    assert (torch["grad_norm"] > RECIPE.training.clip_norm).any()  # the clip acts
    for name in ("loss", "grad_norm"):
        measured(name, require_close(tensorflow[name], torch[name], GRADIENT_FLOAT64, name))
    for name in ("params", "ema", "exp_avg", "exp_avg_sq"):
        measured(name, require_all_close(part(name, tensorflow), part(name, torch), GRADIENT_FLOAT64, name))


def test_images_are_the_same(twins, measured):
    plain = dataclasses.replace(CONFIG, num_class_embeds=None)
    recipe = Recipe(
        plain, ProcessConfig(), training=TrainingConfig(), sampling=SamplingConfig("ddim", 20, batch_size=3)
    )
    results = both(twins, "sample", stressed("float32", plain), recipe=to_dict(recipe), seed=11, first=2, n=4)
    x_T = gaussian(11, "x_T", range(2, 6), 0, recipe.image_shape, "float32")
    for result in results:
        require_close(result["x_T"], x_T, EXACT, "x_T")
        assert result["images"].shape == x_T.shape and np.isfinite(result["images"]).all()
    torch, tensorflow = (result["images"] for result in results)
    print("inside", ((torch > 0.01) & (torch < 0.99)).mean())
    assert ((torch > 0.01) & (torch < 0.99)).mean() > 0.5  # not all clipped
    assert torch.std() > 0.05 and np.abs(torch[:2] - torch[2:]).max() > 0.1
    measured("grey levels", float(np.abs(tensorflow - torch).max()) * 255)
    assert np.abs(np.rint(tensorflow * 255.0) - np.rint(torch * 255.0)).max() <= GREY_LEVELS
