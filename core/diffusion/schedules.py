"""Noise schedules: a name and its parameters become betas, or signal and noise where the variance is not preserved.

The definitions are those of diffusers, which computes them in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from core.config import ProcessConfig

Array = NDArray[np.float64]

COSINE_OFFSET = 0.008
COSINE_MAX_BETA = 0.999
SIGMOID_RANGE = 6.0


def linear(config: ProcessConfig) -> Array:
    """Betas of equal steps. Source: Ho et al. 2020, section 4."""
    return np.linspace(config.beta_start, config.beta_end, config.timesteps)


def scaled_linear(config: ProcessConfig) -> Array:
    """Betas whose square roots have equal steps. Source: Rombach et al. 2022, the code."""
    result: Array = np.linspace(np.sqrt(config.beta_start), np.sqrt(config.beta_end), config.timesteps) ** 2
    return result


def cosine(config: ProcessConfig) -> Array:
    """alphas_cumprod(u) = cos^2(angle(u)); beta = 1 - ratio of neighbours, at most 0.999.

    Source: Nichol and Dhariwal 2021, eq. 17.
    """
    # cos^2 a - cos^2 b = sin(b - a) sin(b + a) keeps the digits that 1 - ratio loses at small t.
    steps = config.timesteps
    angle = (np.arange(steps + 1) / steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * (np.pi / 2)
    before, after = angle[:-1], angle[1:]
    result: Array = np.sin(after - before) * np.sin(after + before) / np.cos(before) ** 2
    return np.minimum(result, COSINE_MAX_BETA)


def sigmoid(config: ProcessConfig) -> Array:
    """Betas along a logistic curve. Source: Xu et al. 2022, GeoDiff, the code."""
    start, end = config.beta_start, config.beta_end
    curve = np.linspace(-SIGMOID_RANGE, SIGMOID_RANGE, config.timesteps)
    result: Array = start + (end - start) / (1 + np.exp(-curve))
    return result


BETAS: dict[str, Callable[[ProcessConfig], Array]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
}
"""A new schedule: its function, a row here, and its name in core.config.process.Schedule."""


def betas(config: ProcessConfig) -> Array:
    """Variance of the noise added from each level to the next.

    Args:
        config: schedule, timesteps T, beta_start, beta_end and zero_terminal_snr are read.
    Returns:
        (T,) float64 in (0, 1); the last is exactly 1 with zero_terminal_snr.
    Raises:
        ValueError: a schedule that has no betas, or that cannot be rescaled.
    Source: the functions of BETAS name theirs; Lin et al. 2024, algorithm 1 (zero_terminal_snr).
    """
    if config.schedule not in BETAS:
        allowed = f"one of {', '.join(BETAS)}; flow and edm are no betas"
        raise ValueError(f"process.schedule = {config.schedule!r}: must be {allowed}")
    values = BETAS[config.schedule](config)
    return rescale_zero_terminal_snr(values) if config.zero_terminal_snr else values


def rescale_zero_terminal_snr(values: Array) -> Array:
    """Shift and scale sqrt(alphas_cumprod) so that the last level holds no signal and the first is unchanged.

    Args:
        values: (T,) float64 betas in (0, 1).
    Returns:
        (T,) float64 betas; the last is exactly 1.
    Raises:
        ValueError: the last levels already hold no signal in float64, so that nothing can be rescaled.
    Source: Lin et al. 2024, algorithm 1.
    """
    signal = np.exp(0.5 * np.cumsum(np.log1p(-values)))
    first, last = signal[0], signal[-1]
    rescaled = (signal - last) * (first / (first - last))
    if np.any(rescaled[:-1] <= 0):
        raise ValueError(
            f"process.zero_terminal_snr = True: the schedule holds no signal before its last of {len(values)} levels; "
            "use a smaller process.beta_end or fewer process.timesteps"
        )
    # 1 - r^2 as (1 - r)(1 + r): neighbours' ratio r is close to 1.
    previous, current = np.append(1.0, rescaled[:-1]), rescaled
    result: Array = (previous - current) * (previous + current) / previous**2
    result[0] = values[0]
    return result


def flow(config: ProcessConfig) -> tuple[Array, Array]:
    """Signal and noise of rectified flow, from image to noise along a straight line: noise s, signal 1 - s.

    Args:
        config: timesteps T and shift are read.
    Returns:
        Two (T,) arrays; the last level is noise alone.
    Source: Liu et al. 2023, eq. 1, at s = (t + 1) / T; Esser et al. 2024, eq. 23 (shift):
        s <- shift s / (1 + (shift - 1) s).
    """
    steps = np.arange(1, config.timesteps + 1, dtype=np.float64)
    left = config.timesteps - steps
    total = config.shift * steps + left  # of the unnormalised shares, so that 1 - s is not rounded
    return left / total, config.shift * steps / total


def edm(config: ProcessConfig) -> tuple[Array, Array]:
    """Signal and noise of levels even in log sigma, scaled so that the state is what the network sees.

    Args:
        config: timesteps, sigma_min, sigma_max and sigma_data are read.
    Returns:
        Two (T,) arrays with noise / signal = sigma: the state is c_in (x_0 + sigma eps), with
        c_in = (sigma^2 + sigma_data^2)^-1/2.
    Source: Karras et al. 2022, table 1 (c_in).
    """
    sigma = np.exp(np.linspace(np.log(config.sigma_min), np.log(config.sigma_max), config.timesteps))
    scale = np.hypot(sigma, config.sigma_data)
    return 1 / scale, sigma / scale
