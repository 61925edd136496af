"""The worker's tasks that measure a twin: seconds of training steps and of sampling, and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.trained import of_recipe
from core.config import Recipe
from core.config.recipes import from_dict
from core.data.dataset import Dataset
from core.diffusion.samplers import make_table
from core.inference.conditioning import own_condition
from core.inference.generator import Generator
from core.networks.specs import initial_weights
from core.training.training import Trainer, Training
from core.worker.protocol import Arrays
from core.worker.tasks import MakeNetwork, as_dataset


class TimedTraining:
    """`time_training`: seconds of each of options.steps optimiser steps of options.recipe, on random images.

    The trainer is kept while the recipe stays the same, so that interleaved repetitions compile once.
    Arrays out: `seconds` (steps,).
    """

    def __init__(self, make_trainer: Callable[[Recipe], Trainer]) -> None:
        self.make_trainer = make_trainer
        self.recipe: Recipe | None = None

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Take the steps; info: make_seconds, the time to make the trainer, near 0 where it was kept."""
        recipe, started = from_dict(Recipe, options["recipe"]), time.perf_counter()
        if recipe != self.recipe:
            self.trainer, self.recipe, self.done = self.make_trainer(recipe), recipe, 0
        made = time.perf_counter() - started
        training, seconds = Training(recipe, random_dataset(recipe)), []
        for step in range(self.done, self.done + options["steps"]):
            started = time.perf_counter()
            float(training.advance(self.trainer, step)["loss"])  # waits for the device
            seconds.append(time.perf_counter() - started)
        self.done += options["steps"]
        return {"seconds": np.array(seconds)}, {"make_seconds": made}


class TimedSampling:
    """`time_sampling`: seconds to draw options.n images with options.recipe's sampler and the initial weights.

    The network is kept while the recipe stays the same. Arrays out: `seconds` (1,).
    """

    def __init__(self, make_network: MakeNetwork) -> None:
        self.make_network = make_network
        self.recipe: Recipe | None = None

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Draw; info: nfe, the number of network evaluations of an image."""
        recipe = from_dict(Recipe, options["recipe"])
        dtype, n = recipe.training.dtype, options["n"]
        if recipe != self.recipe:
            weights = initial_weights(recipe.model, 0, dtype)
            self.network, self.recipe = self.make_network(recipe.model, weights, dtype), recipe
        started, generator = time.perf_counter(), Generator(self.network, of_recipe(recipe, {}))
        condition = own_condition(recipe, random_dataset(recipe), range(n), 0)
        generator.draw(range(n), 0, condition)
        seconds = np.array([time.perf_counter() - started])
        return {"seconds": seconds}, {"nfe": make_table(generator.process, recipe.sampling).nfe}


def random_dataset(recipe: Recipe) -> Dataset:
    """Random images, labels, parameters and images beside."""
    rng, count = np.random.default_rng(0), 4 * recipe.training.batch_size
    arrays: Arrays = {"images": rng.random((count, *recipe.image_shape), np.float32)}
    arrays["labels"] = np.arange(count) % (recipe.classes or 1)
    arrays |= {f"parameters/{name}": rng.random(count) for name in recipe.data.condition}
    if recipe.data.beside and recipe.input_shape is not None:
        arrays["beside"] = rng.random((count, *recipe.input_shape), np.float32)
    return as_dataset(arrays)


def peak_memory(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`peak_memory`: info.bytes, the largest main memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak begins at that of the process that started this one
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return {}, {"bytes": int(line.split()[1]) * 1024}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {}, {"bytes": peak * (1 if sys.platform == "darwin" else 1024)}
