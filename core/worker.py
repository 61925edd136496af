"""The door through which tests, the parity ladder and the benchmark reach a twin: arrays in and out as .npz.

One JSON line a request on stdin, `{"task", "input", "output", "options"}`; one JSON line an answer on stdout,
`{"ok": true, "info"}` or `{"ok": false, "error", "kind"}`. Client: eval/twins.py. This module imports no framework.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.conditioning import own_condition, weak_condition
from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig
from core.data.dataset import Dataset
from core.diffusion.noise import gaussian
from core.diffusion.process import Process, make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import Row, SamplingTable
from core.model.unet_spec import initial_weights
from core.recipes import from_dict
from core.sampling import draw
from core.training.batches import make_batch
from core.training.levels import LevelSampler
from core.training.optim import scalars

Arrays = dict[str, np.ndarray]
Task = Callable[[dict[str, np.ndarray], dict[str, Any]], tuple[dict[str, np.ndarray], dict[str, Any]]]


def serve(set_threads: Callable[[int], None], tasks: dict[str, Task], argv: Sequence[str]) -> int:
    """Answer requests until stdin ends.

    Args:
        set_threads: limits CPU threads, called before the framework runs anything.
        tasks: name -> function(arrays, options) -> (arrays, info).
        argv: `--threads N`, or nothing.
    """
    if argv and (len(argv) != 2 or argv[0] != "--threads" or not argv[1].isdigit()):
        raise ValueError(f"worker {' '.join(argv)}: takes nothing but --threads N")
    # Whatever prints to stdout (frameworks do) goes to stderr; the answers keep the real stdout.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    set_threads(int(argv[1]) if argv else 0)
    for line in sys.stdin:
        print(json.dumps(_answer(tasks, line)), file=answers, flush=True)
    return 0


def _answer(tasks: dict[str, Task], line: str) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if request["task"] not in tasks:
            raise ValueError(f"task {request['task']!r}: must be one of {', '.join(tasks)}")
        arrays: dict[str, np.ndarray] = {}
        if request.get("input"):
            with np.load(request["input"], allow_pickle=False) as file:
                arrays = dict(file)
        result, info = tasks[request["task"]](arrays, request.get("options") or {})
        np.savez(request["output"], **result)  # type: ignore[arg-type]
        return {"ok": True, "info": info}
    except Exception as error:  # one request must not end the worker
        traceback.print_exc()
        kind = "input" if isinstance(error, ValueError | KeyError) else "run"
        return {"ok": False, "error": " ".join(f"{type(error).__name__}: {error}".split()), "kind": kind}


def with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def as_dataset(arrays: Arrays) -> Dataset:
    """Arrays `images` (N, H, W, C) in [0, 1], where there are any `labels` and `parameters/NAME`, with nothing held out."""
    images, labels = arrays["images"], arrays.get("labels")
    return Dataset(images, labels, (), with_prefix(arrays, "parameters/"), np.arange(len(images)), np.arange(0), {})


class Training:
    """`train`: optimiser steps `first` to `first + steps` of options.recipe on `images`, from a given state or from the seed.

    Arrays in: as as_dataset, and to go on `ema/NAME`, `params/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, and what importance
    sampling remembers, `timesteps/NAME`. Arrays out: the same, `loss` and `grad_norm` (steps,). options.counters and
    info.counters: Adam's steps and the skipped ones.
    With options.watch = k also `watched` (K, parameters), all weights as one vector after every k-th step, and
    `watched_steps` (K,). The trainer is kept while the recipe is the same, since compiling takes longer than some steps:
    a call with `first` above 0 and no state goes on from the call before, with nothing loaded in between.
    """

    def __init__(self, make_trainer: Callable[[Recipe], Any]) -> None:
        self.make_trainer = make_trainer
        self.recipe: Recipe | None = None
        self.next_step = 0

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Train."""
        recipe, first = from_dict(Recipe, options["recipe"]), options.get("first", 0)
        fresh = recipe != self.recipe
        if fresh:
            self.trainer = self.make_trainer(recipe)
            self.recipe, self.start, self.next_step = recipe, self.trainer.state(), 0
        if given := with_prefix(arrays, "ema/"):
            self.trainer.load(given, arrays, options["counters"])
        elif first:
            if first != self.next_step:
                raise ValueError(f"first = {first}: no state is given, and the trainer does not stand there")
        elif not fresh:
            self.trainer.load(*self.start)
        process = make_process(recipe.process)
        if given or not first:
            self.levels = LevelSampler(recipe.training, process)
        if given:
            self.levels.load(arrays)
        steps = range(first, first + options["steps"])
        self.next_step = steps.stop
        out = self._steps(recipe, process, as_dataset(arrays), steps, options.get("watch", 0))
        averaged, state, counters = self.trainer.state()
        averages = {f"ema/{name}": value for name, value in averaged.items()}
        return {**out, **averages, **state, **self.levels.state()}, {"counters": counters}

    def _steps(self, recipe: Recipe, process: Process, dataset: Dataset, steps: range, watch: int) -> Arrays:
        losses, norms, watched = [], [], {}
        for step in steps:
            batch = make_batch(recipe, process, dataset, step, self.levels)
            metrics = self.trainer.step(batch, scalars(recipe.training, step))
            self.levels.note(batch, metrics)
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
            if watch and (step + 1) % watch == 0:
                weights = with_prefix(self.trainer.state()[1], "params/")
                watched[step + 1] = np.concatenate([value.ravel() for value in weights.values()])
        out = {"loss": np.array(losses), "grad_norm": np.array(norms)}
        return out | (
            {"watched": np.stack([*watched.values()]), "watched_steps": np.array([*watched])} if watched else {}
        )


class Executors:
    """A twin's executor over given weights, kept while network and weights are the same."""

    def __init__(self, make_sampler: Callable[[ModelConfig, Arrays, str], Any]) -> None:
        self.make_sampler = make_sampler
        self.made: tuple[ModelConfig, str, Arrays] | None = None

    def get(self, config: ModelConfig, weights: Arrays, dtype: str) -> Any:
        """The executor."""
        if not (self.made and self.made[:2] == (config, dtype) and _equal(self.made[2], weights)):
            self.sampler, self.made = self.make_sampler(config, weights, dtype), (config, dtype, weights)
        return self.sampler


class Sampling(Executors):
    """`sample`: draw images `first` to `first + n` of options.seed with the weights `NAME` of arrays.

    options: recipe, seed, first, n, and the recipe's sampling part says the rest. Arrays in: `weights/NAME`, `condition/NAME`.
    Arrays out: `images` (n, H, W, C) in [0, 1], `x_T` (n, H, W, C), the starting noise as the executor was given it. The
    sampler is kept while network and weights are the same.
    """

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Draw; info: network evaluations."""
        recipe, seed, first = from_dict(Recipe, options["recipe"]), options["seed"], options["first"]
        dtype = recipe.training.dtype
        sampler = self.get(recipe.model, with_prefix(arrays, "weights/"), dtype)
        samples, condition = range(first, first + options["n"]), with_prefix(arrays, "condition/")
        table, starts = make_table(make_process(recipe.process), recipe.sampling), []

        def noted(table: SamplingTable, x_T: np.ndarray, *arguments: Any, **named: Any) -> np.ndarray:
            starts.append(x_T)
            drawn: np.ndarray = sampler(table, x_T, *arguments, **named)
            return drawn

        images = draw(
            noted, table, recipe.image_shape, seed, samples, recipe.sampling.batch_size, dtype, condition,
            weak=weak_condition(recipe, condition),
        )  # fmt: skip
        return {"images": images, "x_T": np.concatenate(starts)}, {"nfe": table.nfe}


class TableRun(Executors):
    """`run_table`: rows of any table whose state is the image alone, on `x`, the images `first` and on of options.seed.

    options: model, seed, first, clip, and first_row, the number of the first row, since a row's number keys its noise.
    Arrays in: `weights/NAME`; `x` (n, H, W, C); the rows as `t`, `p`, `q`, `s` (R,) and `matrix` (R, 1, 3). Arrays out:
    `x` after the last row, in the network's range and not clipped.
    """

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Run the rows."""
        x, first_row = arrays["x"], options["first_row"]
        samples = range(options["first"], options["first"] + len(x))
        columns = (*(arrays[name].tolist() for name in ("t", "p", "q")), arrays["matrix"], arrays["s"].tolist())
        table = SamplingTable(tuple(Row(*values) for values in zip(*columns, strict=True)), options["clip"], "rows")

        def noise(row: int) -> np.ndarray:
            return gaussian(options["seed"], "sampler", samples, first_row + row, x.shape[1:], x.dtype)

        sampler = self.get(from_dict(ModelConfig, options["model"]), with_prefix(arrays, "weights/"), x.dtype.name)
        return {"x": sampler(table, x, noise)}, {}


def _equal(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def affine_task(make_sampler: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]) -> Task:
    """`sample_affine`: run options.sampling on a network of closed form, output = slope[t] x + offset[t], t being the level
    whose time is nearest.

    options: process, sampling, seed. Arrays in: `slope`, `offset` (T,), `x_T` (B, H, W, C). Out: `x_0` (B, H, W, C).
    """

    def task(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        process = make_process(from_dict(ProcessConfig, options["process"]))
        table, x_T = make_table(process, from_dict(SamplingConfig, options["sampling"])), arrays["x_T"]
        samples, shape = range(len(x_T)), x_T.shape[1:]

        def noise(row: int) -> np.ndarray:
            return gaussian(options["seed"], "sampler", samples, row, shape, x_T.dtype)

        sampler = make_sampler(arrays["slope"], arrays["offset"], process.time.astype(x_T.dtype))
        return {"x_0": sampler(table, x_T, noise)}, {}

    return task


def _random_dataset(recipe: Recipe) -> Dataset:
    """Images, labels and parameters to time on."""
    rng, count = np.random.default_rng(0), 4 * recipe.training.batch_size
    arrays: Arrays = {"images": rng.random((count, *recipe.image_shape), np.float32)}
    arrays["labels"] = np.arange(count) % (recipe.classes or 1)
    return as_dataset(arrays | {f"parameters/{name}": rng.random(count) for name in recipe.data.condition})


class TimedTraining:
    """`time_training`: seconds of each of options.steps optimiser steps of options.recipe on random images.

    The trainer is kept from call to call while the recipe is the same, so that interleaved repetitions compile once.
    Arrays out: `seconds` (steps,).
    """

    def __init__(self, make_trainer: Callable[[Recipe], Any]) -> None:
        self.make_trainer = make_trainer
        self.recipe: Recipe | None = None

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Run the steps; info: seconds to make the trainer (0 where it was kept)."""
        recipe, started = from_dict(Recipe, options["recipe"]), time.perf_counter()
        if recipe != self.recipe:
            self.trainer, self.recipe, self.done = self.make_trainer(recipe), recipe, 0
        made = time.perf_counter() - started
        dataset = _random_dataset(recipe)
        process, seconds = make_process(recipe.process), []
        for step in range(self.done, self.done + options["steps"]):
            started = time.perf_counter()
            metrics = self.trainer.step(make_batch(recipe, process, dataset, step), scalars(recipe.training, step))
            float(metrics["loss"])  # waits for the device
            seconds.append(time.perf_counter() - started)
        self.done += options["steps"]
        return {"seconds": np.array(seconds)}, {"make_seconds": made}


class TimedSampling:
    """`time_sampling`: seconds that options.n images of options.recipe's sampler take, with the initial weights.

    The sampler is kept while the recipe is the same. Arrays out: `seconds` (1,).
    """

    def __init__(self, make_sampler: Callable[[ModelConfig, Arrays, str], Any]) -> None:
        self.make_sampler = make_sampler
        self.recipe: Recipe | None = None

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Draw; info: network evaluations."""
        recipe = from_dict(Recipe, options["recipe"])
        dtype, n = recipe.training.dtype, options["n"]
        if recipe != self.recipe:
            weights = initial_weights(recipe.model, 0, dtype)
            self.sampler, self.recipe = self.make_sampler(recipe.model, weights, dtype), recipe
        table, started = make_table(make_process(recipe.process), recipe.sampling), time.perf_counter()
        condition = own_condition(recipe, _random_dataset(recipe), range(n), 0)
        draw(
            self.sampler, table, recipe.image_shape, 0, range(n), recipe.sampling.batch_size, dtype, condition,
            weak=weak_condition(recipe, condition),
        )  # fmt: skip
        return {"seconds": np.array([time.perf_counter() - started])}, {"nfe": table.nfe}


def peak_memory(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`peak_memory`: info.bytes, the most main memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak begins at that of the process that started this one
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return {}, {"bytes": int(line.split()[1]) * 1024}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {}, {"bytes": peak * (1 if sys.platform == "darwin" else 1024)}
