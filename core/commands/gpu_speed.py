"""The parts of the verb `gpu-check` that measure speed and memory. Each yields rows of results."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, TextIO, cast

import numpy as np

from core.commands.gpu_subject import PRECISIONS, ROOT, Check, Row, changed
from core.config import SamplingConfig
from core.config.recipes import to_dict
from core.random import generator
from core.training.optim import scalars
from core.training.training import Training
from core.twin import Twin
from core.worker.timing import TimedSampling, TimedTraining, random_dataset


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
