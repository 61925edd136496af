"""The worker's tasks that need no framework, over the NumPy twin."""

import dataclasses

import numpy as np
import pytest

from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.recipes import to_dict
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run as run_in_numpy
from core.images import to_unit
from core.random import gaussian
from core.training.training import Training
from core.worker.protocol import with_prefix
from core.worker.tasks import SamplingTask, TableTask, TrainingTask, affine_task, as_dataset
from core.worker.timing import TimedSampling, TimedTraining, peak_memory
from tests.numpy_impl.sampler import Network
from tests.numpy_impl.trainer import Trainer

MODEL = ModelConfig(
    sample_size=(4, 8),
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    norm_num_groups=4,
    attention_head_dim=None,
)
RECIPE = Recipe(MODEL, training=TrainingConfig(steps=8, batch_size=3), sampling=SamplingConfig(steps=4, batch_size=2))

IMAGES = np.random.default_rng(0).random((5, 4, 8, 1), np.float32)
OPTIONS = {"recipe": to_dict(RECIPE)}
OTHER = {"recipe": to_dict(dataclasses.replace(RECIPE, training=TrainingConfig(steps=9, batch_size=3)))}


def vector(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """All raw weights of an answer."""
    return np.concatenate([value.ravel() for value in with_prefix(arrays, "params/").values()])


@pytest.fixture(scope="module")
def whole():
    """Metrics, state and counters of six steps of a training, without the task."""
    training, trainer = Training(RECIPE, as_dataset({"images": IMAGES})), Trainer(RECIPE)
    metrics = [training.advance(trainer, step) for step in range(6)]
    ema, state, counters = trainer.state()
    return metrics, state | {f"ema/{name}": value for name, value in ema.items()}, counters


def test_train_takes_the_steps_of_a_training(whole):
    metrics, state, counters = whole
    out, info = TrainingTask(Trainer)({"images": IMAGES}, {**OPTIONS, "steps": 6})
    for name in ("loss", "grad_norm"):
        np.testing.assert_array_equal(out.pop(name), [line[name] for line in metrics])
    assert info["counters"] == counters and out.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(out[name], value)


def test_train_goes_on_from_a_state(whole):
    half, info = TrainingTask(Trainer)({"images": IMAGES}, {**OPTIONS, "steps": 3})
    options = {**OPTIONS, "steps": 3, "first": 3, "counters": info["counters"]}
    rest, info = TrainingTask(Trainer)({"images": IMAGES} | half, options)
    assert info["counters"] == whole[2]
    np.testing.assert_array_equal(vector(rest), vector(whole[1]))
    np.testing.assert_array_equal(np.concatenate([half["loss"], rest["loss"]]), [line["loss"] for line in whole[0]])


def test_train_goes_on_where_it_stands_with_nothing_loaded(whole, monkeypatch):
    monkeypatch.setattr(Trainer, "load", None)
    task = TrainingTask(Trainer)
    task({"images": IMAGES}, {**OPTIONS, "steps": 2})
    rest, info = task({"images": IMAGES}, {**OPTIONS, "steps": 4, "first": 2})
    assert info["counters"] == whole[2]
    np.testing.assert_array_equal(vector(rest), vector(whole[1]))


@pytest.mark.parametrize(("options", "first"), [(OPTIONS, 5), (OTHER, 6)])
def test_train_refuses_a_step_at_which_its_trainer_does_not_stand(options, first):
    task = TrainingTask(Trainer)
    task({"images": IMAGES}, {**OPTIONS, "steps": 6})
    for _ in range(2):
        with pytest.raises(ValueError, match=f"first = {first}"):
            task({"images": IMAGES}, {**options, "steps": 1, "first": first})


def test_train_keeps_its_trainer_and_begins_anew_without_a_state(whole):
    task = TrainingTask(Trainer)
    task({"images": IMAGES}, {**OPTIONS, "steps": 1})
    kept = task.trainer
    again, _ = task({"images": IMAGES}, {**OPTIONS, "steps": 6, "watch": 2})
    assert task.trainer is kept
    np.testing.assert_array_equal(vector(again), vector(whole[1]))
    assert again["watched_steps"].tolist() == [2, 4, 6] and again["watched"].shape == (3, vector(again).size)
    np.testing.assert_array_equal(again["watched"][-1], vector(again))


def keyed(seed: int, samples: list[int]):
    """The noise that the executor must get in each row, for images of MODEL."""
    return lambda row, dtype="float32": gaussian(seed, "sampler", samples, row, (4, 8, 1), dtype)


def test_a_network_in_closed_form_is_sampled_with_keyed_noise():
    def affine(slope, offset, time):
        assert time.tolist() == list(range(10)) and time.dtype == np.float32
        return Network(lambda x, t: slope[int(t)] * x + offset[int(t)])

    slope, offset, x_T = np.linspace(0.1, 0.9, 10), np.linspace(-0.5, 0.5, 10), np.ones((2, 4, 8, 1), np.float32)
    options = {"process": {"timesteps": 10}, "sampling": {"sampler": "ddpm", "steps": 4}, "seed": 3}
    out, _ = affine_task(affine)({"slope": slope, "offset": offset, "x_T": x_T}, options)
    table = make_table(make_process(ProcessConfig(10)), SamplingConfig("ddpm", 4))
    expected = run_in_numpy(table, affine(slope, offset, np.arange(10, dtype=np.float32)).bind(), x_T, keyed(3, [0, 1]))
    np.testing.assert_array_equal(out["x_0"], expected.astype(np.float32))


def test_sample_draws_the_recipe_s_batches_and_hands_back_their_noise():
    seen = []

    def network(x, t, labels):
        seen.append(labels.tolist())
        return x / 4

    options, condition = {**OPTIONS, "seed": 9, "first": 5, "n": 3}, {"condition/labels": np.array([0, 1, 2])}
    out, info = SamplingTask(lambda *_: Network(network))({"weights/w": np.ones(1), **condition}, options)
    x_T = gaussian(9, "x_T", [5, 6, 7], 0, (4, 8, 1), "float32")
    np.testing.assert_array_equal(out["x_T"], x_T)
    table = make_table(make_process(RECIPE.process), RECIPE.sampling)
    expected = run_in_numpy(table, lambda x, t: x / 4, x_T, keyed(9, [5, 6, 7])).astype(np.float32)
    np.testing.assert_array_equal(out["images"], to_unit(expected))
    assert seen == [[0, 1]] * 4 + [[2]] * 4 and info["nfe"] == 4


def test_sample_keeps_its_network_while_configuration_and_weights_are_the_same():
    made, weights = [], {"weights/w": np.ones(1)}

    def make_network(*arguments):
        made.append(arguments)
        return Network(lambda x, t: x)

    task = SamplingTask(make_network)
    for arrays, count in ((weights, 1), (weights, 1), ({"weights/w": np.zeros(1)}, 2)):
        task(arrays, {**OPTIONS, "seed": 9, "first": 5, "n": 3})
        assert len(made) == count
    config, given, dtype = made[0]
    assert config == MODEL and given.keys() == {"w"} and dtype == "float32"


def test_the_noise_that_sample_hands_back_is_the_executors(monkeypatch):
    def by_position(seed, purpose, samples, *rest):
        return gaussian(seed, purpose, range(len(samples)), *rest)

    monkeypatch.setattr("core.inference.sampling.gaussian", by_position)
    options = {**OPTIONS, "seed": 9, "first": 5, "n": 3}
    out, _ = SamplingTask(lambda *_: Network(lambda x, t: x))({"weights/w": np.ones(1)}, options)
    np.testing.assert_array_equal(out["x_T"], gaussian(9, "x_T", [0, 1, 0], 0, (4, 8, 1), "float32"))


@pytest.mark.parametrize("clip", (True, False))
def test_a_table_run_in_two_parts_is_the_whole_one(clip):
    """Rows, clipping and every row's noise reach the executor as make_table made them."""
    table = make_table(make_process(RECIPE.process), SamplingConfig("ddpm", 6, clip=clip))
    x_T = np.random.default_rng(0).standard_normal((3, 4, 8, 1))
    task, x, made = TableTask(lambda *_: Network(lambda x, t: np.sin(x) + t / 1000)), x_T, []
    for first, rows in ((0, table.rows[:2]), (2, table.rows[2:])):
        columns = {key: np.array([getattr(row, key) for row in rows]) for key in ("t", "p", "q", "s", "matrix")}
        options = {"model": to_dict(MODEL), "seed": 9, "first": 5, "first_row": first, "clip": clip}
        x = task({"x": x, "weights/w": np.ones(1), **columns}, options)[0]["x"]
        made.append(task.network)
    assert made[0] is made[1]
    noise = keyed(9, [5, 6, 7])
    expected = run_in_numpy(table, lambda x, t: np.sin(x) + t / 1000, x_T, lambda row: noise(row, "float64"))
    np.testing.assert_array_equal(x, expected)


def test_a_timed_trainer_is_kept_while_the_recipe_is_the_same():
    made = []
    task = TimedTraining(lambda recipe: made.append(recipe) or Trainer(recipe))
    for _ in range(2):
        out, info = task({}, {**OPTIONS, "steps": 2})
        assert out["seconds"].shape == (2,) and (out["seconds"] >= 0).all() and info["make_seconds"] >= 0
    assert made == [RECIPE] and task.trainer.counters["adam_steps"] == 4
    task({}, {**OTHER, "steps": 1})
    assert len(made) == 2 and task.trainer.counters["adam_steps"] == 1


def test_a_timed_network_is_kept_while_the_recipe_is_the_same():
    made = []
    task = TimedSampling(lambda *arguments: made.append(arguments) or Network(lambda x, t: x))
    for _ in range(2):
        out, info = task({}, {**OPTIONS, "n": 3})
        assert out["seconds"].shape == (1,) and info["nfe"] == 4 and len(made) == 1


def test_a_prefix_is_taken_off_the_names_that_have_it():
    assert with_prefix({"a/b": 1, "a/c/d": 2, "ab": 3}, "a/") == {"b": 1, "c/d": 2}


def test_the_peak_of_memory_is_in_bytes():
    """NumPy alone takes more than 16 MiB; kilobytes taken for bytes would be less."""
    _, info = peak_memory({}, {})
    assert 2**24 < info["bytes"] < 2**40
