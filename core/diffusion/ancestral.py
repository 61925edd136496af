"""DDPM and DDIM as rows of a sampling table."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from core.config import SamplingConfig
from core.diffusion.grids import Level
from core.diffusion.table import Step


def ddpm(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """Ancestral sampling from the posterior of the step taken, not of neighbouring training levels.

    Args:
        levels: the grid, the last being where it ends.
        config: variance is read.
    Returns:
        One step between neighbours.
    Source: Ho et al. 2020, eq. 6-7; Nichol & Dhariwal 2021, eq. 15 (learned).
    """
    # beta of the step taken is 1 - signal^2 / signal'^2; written as Kingma et al. 2021, appendix A: with
    # r = SNR / SNR' the mean is signal' (1 - r) x0 + r (signal' / signal) x_t and the variance noise'^2 (1 - r).
    # r signal' / signal = signal noise'^2 / (signal' noise^2) exists where signal is 0.
    steps = []
    for now, then in pairwise(levels):
        gain = -np.expm1(2 * (now.half_log_snr - then.half_log_snr))
        keep = now.signal * then.noise**2 / (then.signal * now.noise**2)
        matrix = np.array([[keep, then.signal * gain, 0.0]])
        small = float(then.noise * np.sqrt(gain))
        large = float(now.noise * np.sqrt(gain))  # beta itself: Ho et al. 2020, section 3.2
        if config.variance == "fixed_large" and then.noise > 0:  # no noise enters the image at the last step
            steps.append(Step(now, matrix, large))
        else:
            steps.append(Step(now, matrix, small, large if config.variance == "learned" else None))
    return steps


def ddim(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """DDIM with noise eta; eps is re-derived from the clipped image.

    Args:
        levels: as ddpm().
        config: eta is read.
    Source: Song et al. 2021, eq. 12 and 16.
    """
    # x' = signal' x0 + sqrt(noise'^2 - s^2) eps + s z, eps = (x - signal x0) / noise and s = eta noise' sqrt(1 - r).
    # noise'^2 - s^2 = noise'^2 (1 - eta^2 + eta^2 r) cannot go below 0.
    steps = []
    for now, then in pairwise(levels):
        log_ratio = 2 * (now.half_log_snr - then.half_log_snr)
        direction = then.noise * np.sqrt((1 - config.eta**2) + config.eta**2 * np.exp(log_ratio))
        matrix = np.array([[direction / now.noise, then.signal - direction * now.signal / now.noise, 0.0]])
        steps.append(Step(now, matrix, float(config.eta * then.noise * np.sqrt(-np.expm1(log_ratio)))))
    return steps
