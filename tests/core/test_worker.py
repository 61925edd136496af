"""The worker's protocol and its tasks that need no framework, over a trainer and sampler made of NumPy."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core.config import ModelConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.recipes import to_dict
from core.data.dataset import Dataset
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run as run_in_numpy
from core.random import gaussian
from core.training.optim import scalars
from core.training.training import Training as Plan
from core.worker.protocol import with_prefix
from core.worker.tasks import SamplingTask, TableTask, TrainingTask, affine_task
from core.worker.timing import TimedSampling, TimedTraining, peak_memory
from tests.numpy_impl.sampler import Network

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelConfig(
    sample_size=(4, 8), block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    norm_num_groups=4, attention_head_dim=None,
)  # fmt: skip
RECIPE = Recipe(MODEL, training=TrainingConfig(steps=8, batch_size=3), sampling=SamplingConfig(steps=4, batch_size=2))

SERVER = """
import sys
import numpy as np
from core.command_line import RunError
from core.worker.protocol import serve

def double(arrays, options):
    print("a framework that talks")
    return {name: 2 * value for name, value in arrays.items()}, {"options": options}

def refuse(arrays, options):
    raise ValueError("steps = 0:\\n must be at least 1")

def fail(arrays, options):
    raise RunError("the loss is not finite")

tasks = {"double": double, "refuse": refuse, "fail": fail}
sys.exit(serve(lambda n: print("threads", n, file=sys.stderr), tasks, sys.argv[1:]))
"""


def served(lines: list[str], *argv: str) -> tuple[list[dict], str]:
    """The answers to some lines of requests, and what the worker wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", SERVER, *argv], cwd=ROOT, input="".join(f"{line}\n" for line in lines), text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_one_line_in_is_one_line_out(tmp_path):
    np.savez(tmp_path / "in.npz", x=np.array([[1.5]]), n=np.array([3], np.int64))
    target = tmp_path / "out.npz"
    request = {"task": "double", "input": str(tmp_path / "in.npz"), "output": str(target), "options": {"a": [1]}}
    answers, said = served([json.dumps(request)], "--threads", "2")
    assert answers == [{"ok": True, "info": {"options": {"a": [1]}}}]
    assert "threads 2" in said and "a framework that talks" in said  # not on stdout
    with np.load(target, allow_pickle=False) as stored:
        assert stored["x"].tolist() == [[3.0]] and stored["n"].tolist() == [6] and stored["n"].dtype == np.int64


def test_a_request_that_fails_leaves_the_worker_alive(tmp_path):
    output = str(tmp_path / "out.npz")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    requests = [
        {"task": "refuse", "output": output},
        {"task": "fail", "output": output},
        {"task": "unknown", "output": output},
        {"task": "double", "input": str(tmp_path / "pickled.npz"), "output": output},
        {"task": "double", "output": output},
    ]
    answers, _ = served([*map(json.dumps, requests), "no json"])
    assert [answer["ok"] for answer in answers] == [False, False, False, False, True, False]
    assert [answer.get("kind") for answer in answers] == ["input", "run", "input", "input", None, "input"]
    assert answers[0]["error"] == "ValueError: steps = 0: must be at least 1"  # on one line
    assert "double, refuse, fail" in answers[2]["error"] and "allow_pickle" in answers[3]["error"]


@pytest.mark.parametrize("argv", [["--threads"], ["--threads", "-1"], ["--threads", "2", "x"], ["2"]])
def test_a_worker_takes_nothing_but_threads(argv):
    done = subprocess.run([sys.executable, "-c", SERVER, *argv], cwd=ROOT, input="", text=True, capture_output=True)
    assert done.returncode == 1 and "takes nothing but --threads N" in done.stderr


class Recorder:
    """A trainer that keeps what it is given; the weights are the sum of the batches' noise."""

    made = 0

    def __init__(self, recipe):
        type(self).made += 1
        self.total, self.batches, self.given = np.zeros(()), [], []

    def step(self, batch, values):
        self.total = self.total + batch["eps"].sum()
        self.batches.append(batch)
        self.given.append(values)
        return {"loss": batch["t"].mean(), "grad_norm": values["lr"]}

    def state(self):
        return {"w": self.total}, {"params/w": self.total, "exp_avg/w": self.total}, {"adam_steps": len(self.batches)}

    def load(self, ema, state, counters):
        self.total, self.batches = ema["w"], [None] * counters["adam_steps"]
        assert state["params/w"] == ema["w"]


def test_train_feeds_what_a_run_would_see():
    images = np.random.default_rng(0).random((5, 4, 8, 1), np.float32)
    task, options = TrainingTask(Recorder), {"recipe": to_dict(RECIPE)}
    whole, info = task({"images": images}, {**options, "steps": 6})
    dataset = Dataset(images, None, (), {}, np.arange(5), np.arange(0), {})
    batches = [Plan(RECIPE, dataset).batch(step) for step in range(6)]
    np.testing.assert_array_equal(whole["loss"], [batch["t"].mean() for batch in batches])
    np.testing.assert_array_equal(whole["grad_norm"], [scalars(RECIPE.training, step)["lr"] for step in range(6)])
    assert info["counters"] == {"adam_steps": 6} and whole.keys() == {
        "ema/w",
        "params/w",
        "exp_avg/w",
        "loss",
        "grad_norm",
    }
    # In two halves, the second from the first one's state: as in one.
    half, info = task({"images": images}, {**options, "steps": 3})
    rest, info = task({"images": images} | half, {**options, "steps": 3, "first": 3, "counters": info["counters"]})
    assert info["counters"] == {"adam_steps": 6}
    np.testing.assert_array_equal(rest["params/w"], whole["params/w"])
    np.testing.assert_array_equal(np.concatenate([half["loss"], rest["loss"]]), whole["loss"])
    # In two calls without a state: the second goes on where the first one ended, with nothing loaded in between.
    task({"images": images}, {**options, "steps": 2})
    task.trainer.load = None
    rest, info = task({"images": images}, {**options, "steps": 4, "first": 2})
    del task.trainer.load
    assert info["counters"] == {"adam_steps": 6}
    np.testing.assert_array_equal(rest["params/w"], whole["params/w"])
    other = {**options, "recipe": to_dict(dataclasses.replace(RECIPE, training=TrainingConfig(steps=9, batch_size=3)))}
    for changed, first in ((options, 5), (other, 6), (other, 6)):
        with pytest.raises(ValueError, match=f"first = {first}: no state is given, and the trainer does not stand"):
            task({"images": images}, {**changed, "steps": 1, "first": first})
    task = TrainingTask(Recorder)
    task({"images": images}, {**options, "steps": 1})
    # The trainer is kept, and goes back to where it started when no state is given.
    kept = task.trainer
    again, _ = task({"images": images}, {**options, "steps": 6, "watch": 2})
    assert task.trainer is kept
    np.testing.assert_array_equal(again["params/w"], whole["params/w"])
    assert again["watched_steps"].tolist() == [2, 4, 6] and again["watched"].shape == (3, 1)
    np.testing.assert_array_equal(again["watched"][-1], whole["params/w"])


def test_a_network_in_closed_form_is_sampled_with_keyed_noise():
    def make_network(slope, offset, time):
        assert time.tolist() == list(range(10)) and time.dtype == np.float32
        return Pretender(lambda table, x_T, noise: slope[0] * x_T + offset[0] * noise(table.nfe))

    x_T = np.ones((2, 4, 8, 1), np.float32)
    options = {"process": {"timesteps": 10}, "sampling": {"sampler": "ddpm", "steps": 4}, "seed": 3}
    out, _ = affine_task(make_network)({"slope": np.array([2.0]), "offset": np.array([1.0]), "x_T": x_T}, options)
    np.testing.assert_allclose(out["x_0"], 2 + gaussian(3, "sampler", [0, 1], 4, (4, 8, 1), "float32"))


class Pretender:
    """A network whose executor is a function of table, x_T and noise, and of the condition where it takes one."""

    def __init__(self, run):
        self.execute = run

    def bind(self, condition=None):
        given = [condition] if condition else []
        return SimpleNamespace(run=lambda table, x, noise, *_: self.execute(table, x, noise, *given))


def test_sample_hands_back_the_noise_that_it_started_from():
    seen = []

    def make_network(config, weights, dtype):
        assert config == MODEL and weights.keys() == {"w"} and dtype == "float32"

        def run(table, x_T, noise, condition):
            seen.append((len(x_T), condition["labels"].tolist(), table.nfe))
            return x_T / 4

        return Pretender(run)

    options = {"recipe": to_dict(RECIPE), "seed": 9, "first": 5, "n": 3}
    task, arrays = SamplingTask(make_network), {"weights/w": np.ones(1), "condition/labels": np.array([0, 1, 2])}
    out, info = task(arrays, options)
    np.testing.assert_array_equal(out["x_T"], gaussian(9, "x_T", [5, 6, 7], 0, (4, 8, 1), "float32"))
    np.testing.assert_allclose(out["images"], np.clip(out["x_T"] / 8 + 0.5, 0, 1), rtol=1e-6)
    assert seen == [(2, [0, 1], 4), (1, [2], 4)] and info["nfe"] == 4  # the recipe's batches of 2
    first = task.network
    task(arrays, options)
    assert task.network is first  # the same weights
    task({**arrays, "weights/w": np.zeros(1)}, options)
    assert task.network is not first


def test_the_noise_that_sample_hands_back_is_the_executors(monkeypatch):
    def by_position(seed, purpose, samples, *rest):
        return gaussian(seed, purpose, range(len(samples)), *rest)

    monkeypatch.setattr("core.inference.sampling.gaussian", by_position)
    options = {"recipe": to_dict(RECIPE), "seed": 9, "first": 5, "n": 3}
    out, _ = SamplingTask(lambda *_: Pretender(lambda table, x_T, *rest: x_T))({"weights/w": np.ones(1)}, options)
    np.testing.assert_array_equal(out["x_T"], gaussian(9, "x_T", [0, 1, 0], 0, (4, 8, 1), "float32"))


@pytest.mark.parametrize("clip", (True, False))
def test_a_table_run_in_two_parts_is_the_whole_one(clip):
    """The executor is the NumPy reference: rows, clipping and every row's noise arrive as make_table's."""
    table = make_table(make_process(RECIPE.process), SamplingConfig("ddpm", 6, clip=clip))
    x_T = np.random.default_rng(0).standard_normal((3, 4, 8, 1))

    def network(x, t):
        return np.sin(x) + t / 1000

    def make_network(config, weights, dtype):
        assert config == MODEL and weights.keys() == {"w"} and dtype == "float64"
        return Network(network)

    task, x, made = TableTask(make_network), x_T, []
    for first, rows in ((0, table.rows[:2]), (2, table.rows[2:])):
        columns = {key: np.array([getattr(row, key) for row in rows]) for key in ("t", "p", "q", "s", "matrix")}
        options = {"model": to_dict(MODEL), "seed": 9, "first": 5, "first_row": first, "clip": clip}
        x = task({"x": x, "weights/w": np.ones(1), **columns}, options)[0]["x"]
        made.append(task.network)
    assert made[0] is made[1]
    expected = run_in_numpy(table, network, x_T, lambda row: gaussian(9, "sampler", [5, 6, 7], row, (4, 8, 1)))
    np.testing.assert_array_equal(x, expected)


def test_timed_tasks_keep_what_they_made_while_the_recipe_is_the_same():
    Recorder.made = 0
    task, options = TimedTraining(Recorder), {"recipe": to_dict(RECIPE), "steps": 2}
    for expected in (1, 1):
        out, info = task({}, options)
        assert out["seconds"].shape == (2,) and (out["seconds"] >= 0).all() and Recorder.made == expected
    assert len(task.trainer.batches) == 4
    other = Recipe(MODEL, training=TrainingConfig(batch_size=2))
    out, info = task({}, {"recipe": to_dict(other), "steps": 1})
    assert Recorder.made == 2 and len(task.trainer.batches) == 1 and info["make_seconds"] >= 0

    made = []
    timed = TimedSampling(lambda *args: made.append(args) or Pretender(lambda table, x_T, *rest: x_T))
    for _ in range(2):
        out, info = timed({}, {"recipe": to_dict(RECIPE), "n": 3})
        assert out["seconds"].shape == (1,) and info["nfe"] == 4 and len(made) == 1


def test_small_things():
    assert with_prefix({"a/b": 1, "a/c/d": 2, "ab": 3}, "a/") == {"b": 1, "c/d": 2}
    _, info = peak_memory({}, {})
    assert 2**24 < info["bytes"] < 2**40  # NumPy alone is above 16 MiB; kilobytes taken for bytes would be below
