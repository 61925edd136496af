"""The parts of the verb `gpu-check` that compare two devices. Each yields rows of results."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from core.commands.gpu_subject import Check, Row, changed, labels_of
from core.config import Recipe
from core.networks.specs import initial_weights
from core.random import gaussian, generator
from core.training.training import State, Training
from core.twin import Twin
from core.worker.timing import random_dataset


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
