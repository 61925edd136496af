"""Scalars of the optimiser by step, and the reference Adam that both twins are held against.

This module imports no framework.
"""

from __future__ import annotations

import math

import numpy as np

from core.config import TrainingConfig
from core.networks.parameters import ParamSpec
from core.random import generator
from core.training.posthoc_ema import profile_decay


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
    """What changes from step to step besides the batch: `lr`, `ema_decay`, `dropout_seed` (an integer below 2^31), and
    `profile_decay_I` of the I-th of training.ema_profiles."""
    seed = int(generator(config.seed, "dropout", 0, step).integers(2**31))
    profiles = {f"profile_decay_{i}": profile_decay(value, step) for i, value in enumerate(config.ema_profiles)}
    return {"lr": learning_rate(config, step), "ema_decay": ema_decay(config, step), "dropout_seed": seed, **profiles}


def clip_factor(norm: float, clip_norm: float) -> float:
    """What gradients are multiplied by, given their global norm (0 for clip_norm means no clipping).

    Source: torch.nn.utils.clip_grad_norm_, whose 1e-6 is kept.
    """
    return min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0


def is_decayed(spec: ParamSpec) -> bool:
    """Whether weight decay acts on a parameter: on kernels and matrices, not on norms and biases."""
    return len(spec.shape) >= 2


def adam_step(
    config: TrainingConfig,
    lr: float,
    count: int,
    decayed: bool,
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of Adam or AdamW on one parameter, as torch.optim defines them.

    Args:
        config: optimizer, beta1, beta2, adam_eps, weight_decay.
        lr: this step's learning rate.
        count: steps taken so far, this one included (a skipped step does not count).
        decayed: whether weight decay acts on this parameter.
        p, g, m, v: weights, clipped gradient, first and second moment, equal shapes.
    Returns:
        New p, m and v.
    Source: Kingma & Ba 2015, algorithm 1, with epsilon outside the corrected root; Loshchilov & Hutter 2019.
    """
    decay = config.weight_decay if decayed else 0.0
    if config.optimizer == "adamw":
        p = p * (1 - lr * decay)
    else:
        g = g + decay * p
    m = config.beta1 * m + (1 - config.beta1) * g
    v = config.beta2 * v + (1 - config.beta2) * g * g
    corrected = np.sqrt(v) / math.sqrt(1 - config.beta2**count) + config.adam_eps
    return p - lr / (1 - config.beta1**count) * m / corrected, m, v
