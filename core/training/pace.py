"""How long an optimiser step takes on this machine, and how many of them a length of time holds."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time

import numpy as np

from core.config import Recipe
from core.training.loop import TrainingRun, start_training
from core.training.ranks import Ranks
from core.twin import Twin

MARGIN = 0.03
"""Share of the time that is left free: for checkpoints, the log, and steps that are slower than the timed ones."""
TIMED_SHARE = 0.03
"""Steps are timed for this share of the training's length."""
MOST_TIMED = 10.0
"""Most seconds of timed steps."""
FEWEST_TIMED = 3
LARGEST_WARMUP = 0.1
"""Largest share of the steps for the warm-up of the learning rate."""
MANY_STEPS = 10**9
"""Number of steps of the recipe that is timed: on a GPU long trainings are compiled."""


def timed_steps(run: TrainingRun, seconds: float = 0.0) -> list[float]:
    """Take optimiser steps and time each.

    Args:
        run: the training, which is not to be used further.
        seconds: how long to go on, at least; the fewest steps are four.
    Returns:
        Seconds of each step, at the slowest rank. The first one compiles.
    """
    times: list[float] = []
    while len(times) <= FEWEST_TIMED or sum(times[1:]) < seconds:
        started = time.perf_counter()
        float(run.advance()["loss"])  # waits for the device
        slowest = run.ranks.gather(np.array([time.perf_counter() - started])).max()
        times.append(float(slowest))
    return times


def step_seconds(twin: Twin, recipe: Recipe, seconds: float, ranks: Ranks) -> float:
    """Mean seconds of an optimiser step of a recipe, timed for a small share of a training of `seconds`."""
    training = dataclasses.replace(recipe.training, steps=MANY_STEPS)
    run = start_training(twin, dataclasses.replace(recipe, training=training), ranks)
    try:
        return statistics.fmean(timed_steps(run, min(TIMED_SHARE * seconds, MOST_TIMED))[1:])
    finally:
        run.training.close()


def fit_to(recipe: Recipe, seconds: float, step: float) -> Recipe:
    """The recipe with as many steps as a length of time holds, and a shorter warm-up where there are few.

    Args:
        recipe: the recipe.
        seconds: length of the training.
        step: seconds of one optimiser step.
    Raises:
        ValueError: not one step fits.
    """
    steps = math.floor((1 - MARGIN) * seconds / step)
    if steps < 1:
        least = step / (1 - MARGIN) / 60
        raise ValueError(
            f"--minutes {seconds / 60:g}: no step fits, since one takes {step:.3g} s here; must be at least {least:.2g}"
        )
    warmup = min(recipe.training.warmup_steps, math.floor(LARGEST_WARMUP * steps))
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, steps=steps, warmup_steps=warmup))
