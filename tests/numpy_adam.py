"""Adam and clipping in NumPy, the oracle of both trainers; held against torch.optim in tests/core/test_optim.py."""

import math

import numpy as np

from core.config import TrainingConfig


def clip_factor(norm: float, clip_norm: float) -> float:
    """What gradients are multiplied by, given their global norm (0 for clip_norm means no clipping).

    Source: torch.nn.utils.clip_grad_norm_, whose 1e-6 is kept.
    """
    return min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0


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
