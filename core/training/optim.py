"""The optimiser's scalars at each step: learning rates, decays of the averages, seed of dropout. Who trains what."""

from __future__ import annotations

import math
from collections.abc import Mapping

from core.config import TrainingConfig
from core.networks.parameters import ParamSpec
from core.random import generator
from core.training.posthoc_ema import profile_decay

COMPILED_FROM = 2000
"""Number of optimiser steps from which a training on an NVIDIA GPU is compiled. Compiling takes a minute or more."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b and c of Muon's Newton-Schulz step, X <- a X + (b G + c G^2) X with G = X X^T."""

NEWTON_SCHULZ_STEPS = 5
"""Number of Newton-Schulz steps, after which singular values are between 0.68 and 1.13 unless they are tiny."""

NEWTON_SCHULZ_EPS = 1e-7
"""What is added to the Frobenius norm by which a matrix is divided before the first step."""

OUTER_LAYERS = ("conv_in", "conv_out", "time_embedding", "class_embedding", "vector_embedding", "time_emb_proj")
"""Layers of the U-Net that Muon leaves to Adam: the first and last convolution, embeddings and time projections."""

BASELINE_OUTER_LAYERS = ("inc.double_conv.0", "outc", "label_emb", "emb_layer")
"""The same layers of the baseline network."""

CHART_OUTER_LAYERS = ("proj_in", "proj_out")
"""The same layers of the network of chart coordinates, whose embeddings are named as the U-Net's."""


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


def scalars(config: TrainingConfig, step: int, rank: int = 0) -> dict[str, float]:
    """The scalars of an optimiser step (0-based) on a rank.

    Returns:
        `lr`; `muon_lr`, the rate of Muon, which is muon_learning_rate times lr / learning_rate; `ema_decay`;
        `dropout_seed`, an integer below 2^31, another on each rank; `profile_decay_I` of entry I of
        training.ema_profiles.
    """
    lr = learning_rate(config, step)
    muon_lr = config.muon_learning_rate * (lr / config.learning_rate)
    seed = int(generator(config.seed, "dropout", rank, step).integers(2**31))
    profiles = {f"profile_decay_{i}": profile_decay(value, step) for i, value in enumerate(config.ema_profiles)}
    decay = ema_decay(config, step)
    return {"lr": lr, "muon_lr": muon_lr, "ema_decay": decay, "dropout_seed": seed, **profiles}


def is_decayed(spec: ParamSpec) -> bool:
    """Whether weight decay acts on a parameter: it acts on kernels and matrices, not on norms and biases."""
    return len(spec.shape) >= 2


def is_orthogonalised(name: str, spec: ParamSpec) -> bool:
    """Whether Muon trains a parameter where the optimizer is muon; Adam trains the others.

    It trains the kernels and matrices inside the network. It leaves the outer layers named above to Adam, as well as
    norms and biases. The baseline's joint projection of attention, `in_proj_weight`, is one matrix.

    Args:
        name: canonical name in any architecture.
        spec: its shape.
    Source: Jordan et al. 2024, which trains the first and last layer by Adam.
    """
    outer = any(f".{layer}." in f".{name}" for layer in (*OUTER_LAYERS, *BASELINE_OUTER_LAYERS, *CHART_OUTER_LAYERS))
    return is_decayed(spec) and not outer


def muon_stacks(config: TrainingConfig, specs: Mapping[str, ParamSpec]) -> dict[tuple[int, int], list[str]]:
    """The parameters that Muon trains, by their shape as a matrix; equal shapes are orthogonalised together.

    Args:
        config: the training; without Muon there are none.
        specs: every parameter by canonical name.
    Returns:
        (rows, columns) -> names, with one row an output channel: a kernel (O, I, k, k) is a matrix (O, I k k).
    """
    stacks: dict[tuple[int, int], list[str]] = {}
    for name, spec in specs.items() if config.optimizer == "muon" else ():
        if is_orthogonalised(name, spec):
            stacks.setdefault((spec.shape[0], math.prod(spec.shape[1:])), []).append(name)
    return stacks


def muon_scale(rows: int, columns: int) -> float:
    """What an orthogonalised matrix is multiplied by, besides the learning rate; Source: kellerjordan/Muon."""
    return math.sqrt(max(1.0, rows / columns))
