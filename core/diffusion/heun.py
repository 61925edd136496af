"""Euler's and Heun's methods as rows of a sampling table, in EDM's sigma or in the share of noise.

With x~ = x / scale and tau = noise / scale the flow is dx~ / d tau = (x~ - x0) / tau. In EDM's sigma, scale = signal.
In the share of noise, scale = signal + noise, so that tau runs from 1 to 0 and is finite without signal too. Euler's
method is the same in both: it is DDIM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from core.config import SamplingConfig
from core.diffusion.grids import Level
from core.diffusion.table import Step

MOST_CHURN = math.sqrt(2) - 1


@dataclass(frozen=True)
class _Churned:
    """A level, the noisier one at which the network is evaluated, and how the state gets there."""

    level: Level
    keep: float = 1.0
    s: float = 0.0


def _churn(levels: list[Level], config: SamplingConfig, level_of: Callable[[float], Level]) -> list[_Churned]:
    """The levels of the network's evaluations: sigma^ = (1 + gamma) sigma, x^ = x + sqrt(sigma^2^ - sigma^2) S_noise z.

    Source: Karras et al. 2022, algorithm 2, lines 4-6.
    """
    limit, points = config.churn_max or math.inf, []
    gamma = min(config.churn / (len(levels) - 1), MOST_CHURN)
    for level in levels[:-1]:
        if config.churn == 0 or not config.churn_min <= level.sigma <= limit:
            points.append(_Churned(level))
            continue
        higher = level_of(level.half_log_snr - float(np.log1p(gamma)))
        added = config.churn_noise * level.sigma * np.sqrt(gamma * (2 + gamma))
        points.append(_Churned(higher, higher.signal / level.signal, float(higher.signal * added)))
    return [*points, _Churned(levels[-1])]


def _scale(level: Level, share: bool) -> float:
    return level.signal + level.noise if share else level.signal


def _steps(
    levels: list[Level], points: list[_Churned], start: float, heun: bool, share: bool
) -> tuple[list[Step], float]:
    """The rows, and the standard deviation of the first state; points are the levels of the network's evaluations."""
    steps: list[Step] = []
    for point, then, churned in zip(points, levels[1:], points[1:], strict=False):
        now = point.level
        scale_now, scale = _scale(now, share), _scale(then, share)
        tau, tau_then = now.noise / scale_now, then.noise / scale
        ratio = tau_then / tau
        # x~' = ratio x~ + (1 - ratio) x0
        line = np.array([scale * ratio / scale_now, scale * (1 - ratio), 0.0])
        if not heun or then.noise == 0:
            steps.append(Step(now, churned.keep * line[None], churned.s))
            continue
        # x~'' = x~ + (tau' - tau) / 2 (d + d'), d = (x~ - x0) / tau and d' = (x~' - x0') / tau'.
        half = (tau_then - tau) / 2
        known = np.array([scale * (1 + half / tau) / scale_now, -scale * half / tau, 0.0])
        steps.append(Step(now, np.stack([line, known])))
        corrected = np.array([half / tau_then, 1.0, -scale * half / tau_then, 0.0])
        steps.append(Step(then, churned.keep * corrected[None], churned.s))
    # Churn before the first evaluation: its noise is independent of x_T.
    return steps, math.hypot(points[0].keep * start, points[0].s)


def euler(
    levels: list[Level], config: SamplingConfig, level_of: Callable[[float], Level], start: float = 1.0
) -> tuple[list[Step], float]:
    """Euler's method with churn.

    Args:
        levels: the grid, the last being where it ends.
        config: churn, churn_min, churn_max and churn_noise are read.
        level_of: the level of a given log(signal / noise).
        start: standard deviation of the first state before its churn.
    Returns:
        The rows, and the standard deviation of the first state.
    Source: Karras et al. 2022, algorithm 2 without its lines 9-11.
    """
    return _steps(levels, _churn(levels, config, level_of), start, heun=False, share=False)


def heun(
    levels: list[Level], config: SamplingConfig, level_of: Callable[[float], Level], start: float = 1.0
) -> tuple[list[Step], float]:
    """Heun's method with churn: two evaluations a step, one in the last. Source: Karras et al. 2022, algorithm 2."""
    return _steps(levels, _churn(levels, config, level_of), start, heun=True, share=False)


def flow_euler(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """Euler's method in the share of noise. Source: Liu et al. 2023, rectified flow."""
    return _steps(levels, list(map(_Churned, levels)), 1.0, heun=False, share=True)[0]


def flow_heun(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """Heun's method in the share of noise."""
    return _steps(levels, list(map(_Churned, levels)), 1.0, heun=True, share=True)[0]
