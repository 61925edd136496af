"""The density of images under the probability-flow ODE, by the change of variables.

With lambda = log(signal / noise), signal^2 + noise^2 = 1, the flow and its divergence are

    dz / d lambda = noise (noise z - eps_hat(z, t));   d log p(z) / d lambda = -noise (noise D - tr(d eps_hat / d z))

Both are bounded at both ends, so even steps in lambda suffice. A twin supplies the network's output and its
vector-Jacobian product.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.diffusion.grids import level_of, levels_at
from core.diffusion.predictions import conversions
from core.diffusion.process import Process

Array = NDArray[np.float64]


class VectorJacobian(Protocol):
    """A network with its product from the left: (x, t, v) -> output, v^T d output / d x."""

    def __call__(self, x: Array, t: float, v: Array) -> tuple[NDArray[Any], NDArray[Any]]:
        """Evaluate; x, v and the product (B, ..., C), output (B, ..., C or more)."""
        ...


def exact_probes(shape: tuple[int, ...]) -> Array:
    """Probes whose sum of v^T J v is the exact trace: one for each pixel and channel, (D, 1, *shape)."""
    size = math.prod(shape)
    return np.eye(size).reshape(size, 1, *shape)


def flow(
    process: Process, network: VectorJacobian, z: Array, half_log_snr: float, probes: Array
) -> tuple[Array, Array]:
    """dz / d lambda (B, ..., C) and its divergence (B,), as the module says; arguments as in log_density()."""
    level = level_of(process, half_log_snr)
    scale = math.hypot(level.signal, level.noise)  # z has signal^2 + noise^2 = 1, whatever the process has
    noise, size = level.noise / scale, z[0].size
    given = conversions(np.array([level.signal]), np.array([level.noise]), process.config)
    p, q = float(given["eps_from_xt"][0]), float(given["eps_from_output"][0])
    x, trace = scale * z, np.zeros(len(z))
    for probe in probes:
        output, product = network(x, level.t, np.broadcast_to(probe, z.shape))
        trace += np.sum((np.asarray(product, np.float64) * probe).reshape(len(z), -1), axis=1)
    eps = p * x + q * np.asarray(output, np.float64)[..., : z.shape[-1]]
    return noise * (noise * z - eps), noise * (noise * size - scale * (p * size + q * trace))


def log_density(
    process: Process, network: VectorJacobian, x_0: Array, probes: Array, steps: int
) -> tuple[Array, Array]:
    """Log density of images, and the noise that the flow maps them to.

    The images are taken as the flow's x / signal at level t = 0, whose noise is the least that the network knows.

    Args:
        process: forward process and prediction type.
        network: a twin's, with its condition bound.
        x_0: (B, ..., C) images in [-1, 1].
        probes: (K, B or 1, ..., C) whose sum of v v^T is the identity on average: random signs or normal numbers over
            sqrt(K), fixed along the way, or exact_probes().
        steps: of the classic Runge-Kutta method, even in lambda; 4 K evaluations each.
    Returns:
        log density in nats (B,), and z at the last level that holds signal, (B, ..., C).
    Raises:
        ValueError: a process, other than a flow, with a level that holds no signal.
    Source: Song et al. 2021 (score SDE), section 4.3 and appendix D.2; Grathwohl et al. 2019, FFJORD (the trace's
        estimate); Kingma et al. 2021, appendix A (lambda).
    """
    end = int(np.flatnonzero(process.signal)[-1])  # a flow's last level is noise alone; the one before has next to none
    if end < process.timesteps - 1 and process.config.schedule != "flow":
        raise ValueError(
            f"level t = {process.timesteps - 1} holds no signal, so that there are no steps in log-SNR from it: "
            "use the variational bound"
        )
    first, last = levels_at(process, np.array([0, end]))
    signal = first.signal / math.hypot(first.signal, first.noise)
    points = np.linspace(first.half_log_snr, last.half_log_snr, steps + 1)
    z, change, h = signal * x_0, np.zeros(len(x_0)), float(points[1] - points[0])
    for now, then in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
        middle = (now + then) / 2
        slope_1, divergence_1 = flow(process, network, z, now, probes)
        slope_2, divergence_2 = flow(process, network, z + h / 2 * slope_1, middle, probes)
        slope_3, divergence_3 = flow(process, network, z + h / 2 * slope_2, middle, probes)
        slope_4, divergence_4 = flow(process, network, z + h * slope_3, then, probes)
        z = z + h / 6 * (slope_1 + 2 * slope_2 + 2 * slope_3 + slope_4)
        change += h / 6 * (divergence_1 + 2 * divergence_2 + 2 * divergence_3 + divergence_4)
    size = z[0].size
    at_end = -0.5 * np.sum(z.reshape(len(z), -1) ** 2, axis=1) - 0.5 * size * math.log(2 * math.pi)
    return at_end + change + size * math.log(signal), z
