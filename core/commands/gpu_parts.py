"""The parts of the verb `gpu-check`. Each yields rows of results, one table a part."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np

from core.config import Autocast, DataConfig, EvaluationConfig, ModelConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.recipes import load_recipe, to_dict
from core.data.dataset import Dataset
from core.data.lenses import simulate
from core.inference.conditioning import Condition, own_condition
from core.networks.specs import initial_weights
from core.random import gaussian, generator
from core.training.evaluation import Evaluation, make_extract
from core.training.loop import TrainingRun
from core.training.optim import scalars
from core.training.training import State, Training
from core.twin import Twin
from core.worker.timing import TimedSampling, TimedTraining, random_dataset

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]

NETWORKS = ("demo", "lens-64", "cifar10")
"""Recipes in configs/ whose networks are checked."""
TOY = ModelConfig(
    (8, 8),
    1,
    1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
)
PRECISIONS: dict[str, Autocast] = {"fp32": "none", "tf32": "tf32", "bf16": "bf16"}
"""training.autocast by the name in the tables."""


@dataclass(frozen=True)
class Check:
    """What the parts share."""

    twin: Twin
    """The twin on the device that is checked."""
    toy: bool
    """Whether everything is tiny, as on a CPU."""

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes whose networks are checked, by name."""
        if self.toy:
            training = TrainingConfig(batch_size=4, warmup_steps=2)
            return {"toy": Recipe(TOY, training=training, sampling=SamplingConfig("ddim", 4))}
        return {name: load_recipe(ROOT / "configs" / f"{name}.toml") for name in NETWORKS}

    @property
    def repetitions(self) -> int:
        """Number of interleaved repetitions of a timing."""
        return 2 if self.toy else 5

    @property
    def steps(self) -> int:
        """Number of optimiser steps in one repetition."""
        return 2 if self.toy else 10


def network(check: Check) -> Iterator[Row]:
    """One evaluation of each network, whose weights were moved away from the zeros of the initial ones."""
    for name, recipe in check.recipes.items():
        for dtype in ("float64", "float32"):
            start = initial_weights(recipe.model, 0, dtype)
            weights = {
                n: w + (0.05 * generator(0, "rows", i).standard_normal(w.shape)).astype(dtype)
                for i, (n, w) in enumerate(start.items())
            }
            x, t = gaussian(0, "x_T", range(4), 0, recipe.image_shape, dtype), np.array([0, 50, 500, 999], dtype)
            outputs = [
                twin.make_network(recipe.model, weights, dtype).bind(labels_of(recipe, 4)).evaluate(x, t)
                for twin in (check.twin.on("cpu"), check.twin)
            ]
            yield {"network": name, "precision": dtype, "relative difference": apart(*outputs)}


def training(check: Check) -> Iterator[Row]:
    """The state after twenty optimiser steps from the same seed on the same batches."""
    name, recipe = next(iter(check.recipes.items()))
    for dtype in ("float64", "float32"):
        chosen = short(recipe, dtype)
        ours, theirs = (train(twin, chosen, range(20)) for twin in (check.twin.on("cpu"), check.twin))
        yield {"network": name, "precision": dtype, **differences(ours, theirs)}


def resume(check: Check) -> Iterator[Row]:
    """Ten steps on one device, ten more on the other from the saved state, against twenty steps on the CPU."""
    name, recipe = next(iter(check.recipes.items()))
    chosen, cpu = short(recipe, "float64"), check.twin.on("cpu")
    whole = train(cpu, chosen, range(20))
    for way, first, second in (("CPU to GPU", cpu, check.twin), ("GPU to CPU", check.twin, cpu)):
        half = train(first, chosen, range(10))
        yield {"network": name, "way": way, **differences(whole, train(second, chosen, range(10, 20), half))}


def training_speed(check: Check) -> Iterator[Row]:
    """Optimiser steps on random images, each waited for, in the recipe's batch size."""
    for name, recipe in check.recipes.items():
        with peer(check) as diffusers:
            contestants: dict[str, Callable[[], float]] = {}
            for precision, autocast in PRECISIONS.items():
                options = {"recipe": to_dict(changed(recipe, autocast=autocast)), "steps": check.steps}
                contestants[precision] = timed(TimedTraining(check.twin.make_trainer), options)
                if diffusers and precision != "tf32":
                    contestants[f"diffusers {precision}"] = timed(diffusers, options)
            yield from compared(check, name, contestants, recipe.training.batch_size)


def evaluation_speed(check: Check) -> Iterator[Row]:
    """One evaluation of the network, from drawing images with ten evaluations of DDIM."""
    for name, recipe in check.recipes.items():
        sampling = SamplingConfig("ddim", 4 if check.toy else 10)
        for n in (1, 64):
            chosen = dataclasses.replace(recipe, sampling=dataclasses.replace(sampling, batch_size=n))
            options, contestants = {"recipe": to_dict(chosen), "n": n}, {}
            for precision in PRECISIONS:
                task = TimedSampling(making(check.twin, precision))
                contestants[precision] = allowing(check.twin, precision, timed(task, options))
            for row in compared(check, name, contestants, n):
                ms = row["ms"] / sampling.steps
                yield {**row, "ms": ms, "images/s": 1000 * n / ms}


def compiled(check: Check) -> Iterator[Row]:
    """The last network's step in bf16, compiled against eager."""
    if check.toy:
        return
    name, recipe = list(check.recipes.items())[-1]
    options, contestants = {"recipe": to_dict(changed(recipe, autocast="bf16")), "steps": check.steps}, {}
    for form in ("eager", "compiled"):
        twin = dataclasses.replace(check.twin, compiled=form == "compiled")
        contestants[form] = timed(TimedTraining(twin.make_trainer), options)
    started = time.perf_counter()
    contestants["compiled"]()
    seconds = time.perf_counter() - started
    for row in compared(check, name, contestants, recipe.training.batch_size):
        yield {**row, "seconds of the first steps": seconds if row["precision"] == "compiled" else None}


def memory(check: Check) -> Iterator[Row]:
    """The largest memory of the GPU during three steps."""
    if check.toy:
        return
    device = check.twin.module("device")
    for name, recipe in check.recipes.items():
        for precision, autocast in PRECISIONS.items():
            gc.collect()
            device.reset_peak_memory()
            options = {"recipe": to_dict(changed(recipe, autocast=autocast)), "steps": 3}
            timed(TimedTraining(check.twin.make_trainer), options)()
            yield {"network": name, "precision": precision, "GiB": device.peak_memory() / 2**30}


def waiting(check: Check) -> Iterator[Row]:
    """Steps in a row without waiting for any: with a new batch each, against one batch that lies on the device."""
    count = 3 * check.steps
    for name, recipe in check.recipes.items():
        run = Training(recipe, random_dataset(recipe))
        trainer = check.twin.make_trainer(recipe)
        placed, seconds = trainer.put(run.batch(0)), {}
        float(trainer.step(placed, scalars(recipe.training, 0))["loss"])
        for kind in ("fixed batch", "new batches"):
            started = time.perf_counter()
            for step in range(count):
                metrics = (
                    run.advance(trainer, step)
                    if kind == "new batches"
                    else trainer.step(placed, scalars(recipe.training, step))
                )
            float(metrics["loss"])
            seconds[kind] = (time.perf_counter() - started) / count
        share = max(0.0, 1 - seconds["fixed batch"] / seconds["new batches"])
        yield {"network": name, **{f"ms, {kind}": 1000 * s for kind, s in seconds.items()}, "share waiting": share}


def minute(check: Check) -> Iterator[Row]:
    """A minute of training on simulated lenses, and the lens Fréchet distance of images drawn after it."""
    name, wanted = ("toy", 1.0) if check.toy else ("lens-64", 60.0)
    size, held_out = (32, 16) if check.toy else (64, 1000)
    recipe, count = check.recipes[name], 64 if check.toy else 3000
    model = dataclasses.replace(recipe.model, sample_size=(size, size))
    images, labels, _ = simulate("lensing", count, (size, size))
    split = np.arange(held_out, count), np.arange(held_out)
    dataset = Dataset(images, labels, (), {}, *split, {})
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(
            recipe.training, autocast=PRECISIONS[precision], learning_rate=1e-3, warmup_steps=50, steps=10**6
        )
        chosen = dataclasses.replace(
            recipe, model=model, data=DataConfig(), training=config, evaluation=EvaluationConfig(every=1, n=held_out)
        )
        run = TrainingRun(Training(chosen, dataset), check.twin.make_trainer(chosen))
        float(run.advance()["loss"])  # what is compiled at the first step is no part of the minute
        started = time.perf_counter()
        while time.perf_counter() - started < wanted:
            for _ in range(check.steps):
                metrics = run.advance()
            float(metrics["loss"])
        seconds = time.perf_counter() - started
        distance = Evaluation(chosen, dataset, make_extract(check.twin, chosen))(run.draw(held_out, 0))
        rate = (run.step - 1) * config.batch_size / seconds
        yield {"network": name, "precision": precision, "steps": run.step, "images/s": rate, "distance": distance}


PARTS: dict[str, tuple[Callable[[Check], Iterator[Row]], float, float]] = {
    "network, GPU against CPU": (network, 0.1, 5),
    "twenty training steps, GPU against CPU": (training, 0.1, 10),
    "going on, on the other device": (resume, 0.06, 10),
    "speed of training": (training_speed, 0.24, 20),
    "speed of one evaluation": (evaluation_speed, 0.08, 5),
    "compiled in bf16": (compiled, 0.12, 90),
    "peak memory": (memory, 0.03, 5),
    "waiting for data": (waiting, 0.03, 5),
    "a minute of training": (minute, 0.24, 100),
}
"""The parts in their order; the share of the time that each may take, where time that one leaves goes to the next; and
the seconds that must be left before a row is begun."""


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """max |one - other| / max |one|, or NaN where a value is not finite."""
    finite = np.isfinite(one).all() and np.isfinite(other).all()
    return float(np.abs(one - other).max() / (np.abs(one).max() or 1.0)) if finite else math.nan


def differences(one: State, other: State) -> Row:
    """The largest relative difference of all weights, averages and moments, each taken as one vector."""
    found = {}
    for title, prefix in (("weights", "params/"), ("first moments", "exp_avg/"), ("second moments", "exp_avg_sq/")):
        parts = [np.concatenate([v.ravel() for n, v in s[1].items() if n.startswith(prefix)]) for s in (one, other)]
        found[title] = apart(*parts)
    average = [np.concatenate([value.ravel() for value in state[0].values()]) for state in (one, other)]
    return {**found, "averages": apart(*average)}


def changed(recipe: Recipe, **options: Any) -> Recipe:
    """The recipe with other values of the table training."""
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **options))


def short(recipe: Recipe, dtype: str) -> Recipe:
    """The recipe for twenty steps of a small batch at a precision."""
    return changed(recipe, dtype=dtype, steps=20, warmup_steps=5, batch_size=min(16, recipe.training.batch_size))


def train(twin: Twin, recipe: Recipe, steps: range, state: State | None = None) -> State:
    """The state after some optimiser steps, from the recipe's seed or from a state."""
    run, trainer = Training(recipe, random_dataset(recipe)), twin.make_trainer(recipe)
    if state:
        trainer.load(*state)
    for step in steps:
        run.advance(trainer, step)
    return trainer.state()


def labels_of(recipe: Recipe, n: int) -> Condition:
    """The condition of n images."""
    return own_condition(recipe, random_dataset(recipe), range(n), 0)


def making(twin: Twin, precision: str) -> Callable[..., Any]:
    """The function that makes a network at a precision."""
    return lambda model, weights, dtype: twin.make_network(model, weights, "bf16" if precision == "bf16" else dtype)


def allowing(twin: Twin, precision: str, run: Callable[[], float]) -> Callable[[], float]:
    """A measurement under which TF32 is allowed where the precision is tf32."""

    def measured() -> float:
        with twin.module("device").tf32(precision == "tf32"):
            return run()

    return measured


def timed(task: Callable[[dict[str, Any], dict[str, Any]], Any], options: dict[str, Any]) -> Callable[[], float]:
    """A function that runs a task of the worker and returns the median of its seconds."""
    return lambda: float(np.median(task({}, options)[0]["seconds"]))


def compared(check: Check, name: str, contestants: dict[str, Callable[[], float]], images: int) -> Iterator[Row]:
    """Medians of interleaved repetitions, in another order each, and ratios to the first contestant with quartiles."""
    for run in contestants.values():
        run()  # memory is taken and kernels are chosen
    names = list(contestants)
    found: dict[str, list[float]] = {label: [] for label in names}
    for repetition in range(check.repetitions):
        for index in generator(0, "rows", repetition).permutation(len(names)):
            found[names[index]].append(contestants[names[index]]())
    for label, seconds in found.items():
        low, middle, high = np.quantile(np.array(found[names[0]]) / np.array(seconds), (0.25, 0.5, 0.75))
        row: Row = {"network": name, "batch": images, "precision": label, "ms": 1000 * float(np.median(seconds))}
        speed = f"{middle:.2f} ({low:.2f} - {high:.2f})"
        yield {**row, "images/s": images / float(np.median(seconds)), "times as fast": speed}


@contextlib.contextmanager
def peer(check: Check) -> Iterator[Callable[..., Any] | None]:
    """A task of diffusers' UNet2DModel in a process of its own, or None where diffusers is not installed."""
    if check.twin.package != "torch_impl" or find_spec("diffusers") is None or check.toy:
        yield None
        return
    command = [sys.executable, "-m", "tests.peers.diffusers_contestant"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        questions, answers = cast("TextIO", process.stdin), cast("TextIO", process.stdout)

        def task(arrays: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            output = f"{folder}/out.npz"
            request = {"task": "time_training", "output": output, "options": options}
            print(json.dumps(request), file=questions, flush=True)
            answer = json.loads(answers.readline())
            if not answer["ok"]:
                raise ValueError(f"diffusers: {answer['error']}")
            with np.load(output) as file:
                return dict(file), answer["info"]

        try:
            yield task
        finally:
            questions.close()  # which ends the process
