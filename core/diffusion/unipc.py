"""UniPC and iPNDM as rows of a sampling table."""

from __future__ import annotations

import numpy as np

from core.config import SamplingConfig
from core.diffusion.dpm_solver import orders_and_history
from core.diffusion.grids import Level
from core.diffusion.table import Array, Step

UNIPC_ORDER, IPNDM_ORDER = 2, 4
"""Where sampling.order is 0."""

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the newest to the oldest slope on an even grid; Hairer, Norsett & Wanner 1993, III.1."""


def update(levels: list[Level], now: int, order: int, variant: str, corrector: bool) -> tuple[float, Array]:
    """One step from levels[now] as x' = keep x + sum of weights[k] m[k].

    m[0] is x0 at levels[now], m[1], ... those before it; for the corrector the last is x0 at levels[now + 1].
    Source: Zhao et al. 2023, UniPC, algorithms 5-8 (data prediction) and appendix E; of order 2, B is theirs of the
        simplified form (rho = 1/2).
    """
    before, then = levels[now], levels[now + 1]
    h = then.half_log_snr - before.half_log_snr
    phi_1 = np.expm1(-h)
    keep = float(then.noise / before.noise)
    ratios = [(levels[now - k].half_log_snr - before.half_log_snr) / h for k in range(1, order)]
    differences = np.zeros((order - 1 + corrector, order + corrector))  # D_k / r_k in terms of m
    for k, ratio in enumerate([*ratios, 1.0][: len(differences)]):
        differences[k, 0], differences[k, k + 1] = -1 / ratio, 1 / ratio
    weights = np.zeros(order + corrector)
    weights[0] = -then.signal * phi_1
    if len(differences) == 0:
        return keep, weights
    b_h = -h if variant == "bh1" else phi_1
    size = len(differences)
    if size == 1:
        rho = np.array([0.5])
    else:
        points = np.array([*ratios, 1.0][:size])
        phi, factorial, rights = phi_1 / -h - 1, 1.0, []
        for i in range(1, size + 1):
            factorial *= i
            rights.append(phi * factorial / b_h)
            phi = phi / -h - 1 / (factorial * (i + 1))
        rho = np.linalg.solve(np.array([points**i for i in range(size)]), rights)
    return keep, weights - then.signal * b_h * (rho @ differences)


def unipc(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """UniPC: predictor and corrector of the same order with one evaluation a step.

    Args:
        levels: the grid, the last being where it ends.
        config: order (1 to 3; 0 for 2) and unipc_variant are read.
    Source: Zhao et al. 2023, section 3.
    """
    # The network is evaluated at the predicted x; with x0 there, the corrected x is known + c x0, where `known` was
    # formed in the row before. State [x predicted, known, x0 before, x0 before that, ...].
    if config.order > 3:
        raise ValueError(f"sampling.order = {config.order}: must be at most 3 with sampler unipc")
    steps, size, c = [], 1, 0.0  # entries of the state; weight of x0 in the corrector that is under way
    for i, (number, kept) in enumerate(orders_and_history(levels, config.order or UNIPC_ORDER)):
        entries = np.eye(size + 2)
        values = entries[[-2, *range(2, size)]]  # x0 now, x0 before, ...
        corrected = entries[1] + c * entries[-2] if i else entries[0]
        keep, weights = update(levels, i, number, config.unipc_variant, corrector=False)
        lines = [keep * corrected + weights @ values[:number]]
        if i + 2 < len(levels):
            keep, weights = update(levels, i, number, config.unipc_variant, corrector=True)
            c = float(weights[-1])
            lines += [keep * corrected + weights[:-1] @ values[:number], *values[:kept]]
        steps.append(Step(levels[i], np.stack(lines)))
        size = len(lines)
    return steps


def ipndm(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """iPNDM: DDIM with eps from its last values by the Adams-Bashforth weights of an even grid.

    Args:
        levels: as unipc().
        config: order (1 to 4; 0 for 4) is read.
    Source: Liu et al. 2022, PNDM, with the lower-order start of Zhang & Chen 2022 (DEIS, appendix).
    """
    # State [x, eps before, eps before that, ...]. x' = (signal' / signal) x + (noise' - signal' noise / signal) eps;
    # of order 1 written with x0, which exists where there is no signal.
    steps, size = [], 1
    for i, (number, kept) in enumerate(orders_and_history(levels, config.order or IPNDM_ORDER)):
        now, then = levels[i : i + 2]
        entries = np.eye(size + 2)
        history = np.stack([(entries[0] - now.signal * entries[-2]) / now.noise, *entries[1:size]])
        if number == 1:
            line = then.noise / now.noise * (entries[0] - now.signal * entries[-2]) + then.signal * entries[-2]
        else:
            eps = np.array(ADAMS_BASHFORTH[number - 1]) @ history[:number]
            line = then.signal / now.signal * (entries[0] - now.noise * eps) + then.noise * eps
        steps.append(Step(now, np.stack([line, *history[:kept]])))
        size = 1 + kept
    return steps
