"""The convolutions and matrix products of our PyTorch twin alone, as a contestant of the benchmark: a practical limit.

One training step and one evaluation are recorded as PyTorch runs them. Of these, the operations in PRODUCTS are run
again on arrays of the same shapes and memory layouts. What is faster than this must change the products themselves.
Run by the PyTorch interpreter from the checkout: `python -m tests.peers.products_contestant`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from core.command_line import keep_freed_memory
from core.config import Recipe
from core.config.recipes import from_dict
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.networks.specs import initial_weights
from core.training.training import Training
from core.worker.protocol import Arrays, serve
from core.worker.timing import peak_memory, random_dataset
from tests.peers.contestant import describe, set_threads
from torch_impl.sampler import make_network
from torch_impl.trainer import Trainer

PRODUCTS = ("conv", "mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "scaled_dot_product")
"""Beginnings of the names of PyTorch's operations that are convolutions or matrix products."""


class Recorder(TorchDispatchMode):
    """Notes every product that runs, with arrays of its arguments' shapes, types and layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []
        self.arrays: dict[Any, torch.Tensor] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__.lstrip("_").startswith(PRODUCTS):
            own, named = tree_map(self._alike, args), tree_map(self._alike, kwargs or {})
            self.calls.append(lambda: function(*own, **named))
        return function(*args, **(kwargs or {}))

    def _alike(self, value: Any) -> Any:
        """Random numbers in the shape, type and layout of a tensor; anything else as it is."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        key = (value.shape, value.stride(), value.dtype)
        if key not in self.arrays:
            size = 1 + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
            numbers = torch.randn(size, device=value.device).to(value.dtype)
            self.arrays[key] = numbers.as_strided(value.shape, value.stride())
        return self.arrays[key]


def seconds(calls: list[Callable[[], Any]], device: torch.device) -> float:
    """Time of all the products, one after another."""
    started = time.perf_counter()
    with torch.no_grad():
        for call in calls:
            call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


class TimedSteps:
    """`time_training`: seconds of the products of options.steps optimiser steps of options.recipe."""

    recipe: Recipe | None = None

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Record a step where the recipe is new, and run its products."""
        recipe = from_dict(Recipe, options["recipe"])
        if recipe != self.recipe:
            trainer, self.recipe = Trainer(recipe), recipe
            self.device = next(trainer.network.parameters()).device
            with Recorder() as recorder:
                Training(recipe, random_dataset(recipe)).advance(trainer, 0)
            self.calls = recorder.calls
        return {"seconds": np.array([seconds(self.calls, self.device) for _ in range(options["steps"])])}, {}


class TimedEvaluations:
    """`time_sampling`: seconds of the products in the evaluations that drawing options.n images at once takes."""

    key: Any = None

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Record an evaluation where the recipe or n is new, and run its products."""
        recipe, n = from_dict(Recipe, options["recipe"]), options["n"]
        if self.key != (recipe, n):
            self.key, dtype = (recipe, n), recipe.training.dtype
            network = make_network(recipe.model, initial_weights(recipe.model, 0, dtype), dtype)
            x, t = np.zeros((n, *recipe.image_shape), dtype), np.zeros(n, dtype)
            condition = {"labels": np.zeros(n, np.int64)} if recipe.classes else {}
            self.device = network.device
            with Recorder() as recorder:
                network.bind(condition).evaluate(x, t)
            self.calls = recorder.calls
        nfe = make_table(make_process(recipe.process), recipe.sampling).nfe
        return {"seconds": np.array([sum(seconds(self.calls, self.device) for _ in range(nfe))])}, {"nfe": nfe}


if __name__ == "__main__":
    keep_freed_memory()  # as our command line does
    tasks = {
        "time_training": TimedSteps(),
        "time_sampling": TimedEvaluations(),
        "peak_memory": peak_memory,
        "describe": lambda arrays, options: ({}, {"framework": "torch", "version": torch.__version__, **describe()}),
    }
    sys.exit(serve(set_threads, tasks, sys.argv[1:]))
