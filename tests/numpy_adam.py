"""Adam, Muon and clipping in NumPy, the oracle of both trainers; tests/core/test_optim.py tests it by torch.optim."""

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


def orthogonalised(matrix: np.ndarray) -> np.ndarray:
    """A matrix with singular values near 1 and its own singular vectors.

    Source: Jordan et al. 2024, five quintic Newton-Schulz steps on the smaller side.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    x: np.ndarray = matrix / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon_step(
    config: TrainingConfig, lr: float, p: np.ndarray, g: np.ndarray, m: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step of Muon on one kernel or matrix.

    Args:
        config: muon_momentum, weight_decay.
        lr: this step's learning rate of Muon.
        p, g, m: weights, clipped gradient and momentum, equal shapes; a kernel (O, I, k, k) is a matrix (O, I k k).
    Returns:
        New p and m.
    Source: Jordan et al. 2024 (kellerjordan/Muon), with Nesterov's momentum and decoupled weight decay.
    """
    m = m + (1 - config.muon_momentum) * (g - m)
    u = orthogonalised((g + config.muon_momentum * (m - g)).reshape(len(g), -1))
    u = u * math.sqrt(max(1, u.shape[0] / u.shape[1]))
    return p * (1 - lr * config.weight_decay) - lr * u.reshape(p.shape), m
