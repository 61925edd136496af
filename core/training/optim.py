"""The optimiser's scalars at each step: learning rate, decays of the averages, seed of dropout."""

from __future__ import annotations

import math

from core.config import TrainingConfig
from core.networks.parameters import ParamSpec
from core.random import generator
from core.training.posthoc_ema import profile_decay

COMPILED_FROM = 2000
"""Number of optimiser steps from which a training on an NVIDIA GPU is compiled. Compiling takes a minute or more."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of a step (0-based): linear warm-up to the peak at step warmup_steps - 1, then the decay.

    Args:
        config: warmup_steps, decay, decay_start, final_fraction, learning_rate, steps.
        step: in [0, steps).
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    start = config.decay_start * config.steps
    done = min(max((step + 1 - start) / max(config.steps - start, 1.0), 0.0), 1.0)
    if config.decay == "constant":
        shape = 1.0
    elif config.decay == "linear":
        shape = 1.0 - done
    else:
        shape = 0.5 * (1.0 + math.cos(math.pi * done))
    fraction = shape if config.decay == "constant" else config.final_fraction + (1 - config.final_fraction) * shape
    return config.learning_rate * warm * fraction


def ema_decay(config: TrainingConfig, step: int) -> float:
    """Decay d of the weights' average after a step (0-based): average = d * average + (1 - d) * weights.

    Source: min(decay, (1 + n) / (10 + n)), TensorFlow's `ExponentialMovingAverage` with num_updates, n = step + 1.
    """
    n = step + 1
    return min(config.ema_decay, (1 + n) / (10 + n))


def scalars(config: TrainingConfig, step: int) -> dict[str, float]:
    """The scalars of an optimiser step (0-based).

    Returns:
        `lr`; `ema_decay`; `dropout_seed`, an integer below 2^31; `profile_decay_I` of entry I of training.ema_profiles.
    """
    seed = int(generator(config.seed, "dropout", 0, step).integers(2**31))
    profiles = {f"profile_decay_{i}": profile_decay(value, step) for i, value in enumerate(config.ema_profiles)}
    return {"lr": learning_rate(config, step), "ema_decay": ema_decay(config, step), "dropout_seed": seed, **profiles}


def is_decayed(spec: ParamSpec) -> bool:
    """Whether weight decay acts on a parameter: it acts on kernels and matrices, not on norms and biases."""
    return len(spec.shape) >= 2
