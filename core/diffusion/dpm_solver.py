"""DPM-Solver++ (2M, 2S, 3M, SDE-2M) as rows of a sampling table.

Let h be the step in half log-SNR. The exact solution is

    x' = (noise' / noise) x + noise' integral of e^lambda x0 d lambda

and each method replaces x0 by a polynomial through its last values. Where a grid ends at the clean image, h of the last
step is infinite: only e^-h and expm1(-h) are used there, at order 1. The order falls towards that end, by one a row.
"""

from __future__ import annotations

import numpy as np

from core.config import SamplingConfig
from core.diffusion.grids import Level
from core.diffusion.table import Array, Step


def orders_and_history(levels: list[Level], order: int) -> list[tuple[int, int]]:
    """For each step of a multistep method its order and how many values it leaves to later steps.

    The order is one at the start, where there is no history, and falls to one towards a clean end.
    """
    count, clean = len(levels) - 1, levels[-1].noise == 0
    numbers = [min(order, i + 1, count - i if clean else order) for i in range(count)]
    # Step j takes its own value and numbers[j] - 1 before it.
    needs = [max((numbers[j] - (j - i) for j in range(i + 1, count)), default=0) for i in range(count)]
    return [(number, min(max(need, 0), i + 1)) for i, (number, need) in enumerate(zip(numbers, needs, strict=True))]


def multistep(levels: list[Level], now: int, order: int) -> tuple[float, Array]:
    """One deterministic step from levels[now] as x' = keep x + sum of weights[k] x0[k], k = 0 the newest.

    Source: Lu et al. 2022, DPM-Solver++, section 4.2 (2M) and appendix B (3M). The second difference enters as the
        Taylor coefficient that it is (their 3M takes half of it, which is of order 2).
    """
    before, then = levels[now], levels[now + 1]
    h = then.half_log_snr - before.half_log_snr
    keep, phi_1 = then.noise / before.noise, np.expm1(-h)
    weights = np.zeros(order)
    weights[0] = -then.signal * phi_1
    if order == 1:
        return float(keep), weights
    # After a level without signal h_before is infinite and its differences vanish.
    r0 = (before.half_log_snr - levels[now - 1].half_log_snr) / h
    first = np.zeros(order)
    first[:2] = 1 / r0, -1 / r0
    if order == 2:  # midpoint form
        weights -= 0.5 * then.signal * phi_1 * first
        return float(keep), weights
    r1 = (levels[now - 1].half_log_snr - levels[now - 2].half_log_snr) / h
    older = np.array([0.0, 1 / r1, -1 / r1])
    slope = first + r0 / (r0 + r1) * (first - older) if np.isfinite(r1) else first
    curvature = (first - older) / (r0 + r1)  # half the second derivative times h^2
    phi_2 = phi_1 / h + 1
    phi_3 = phi_2 / h - 0.5
    weights += then.signal * (phi_2 * slope - 2 * phi_3 * curvature)
    return float(keep), weights


def with_history(keep: float, weights: Array, size: int, kept: int) -> Array:
    """The matrix of a multistep row over a state of `size` entries [x, x0 before, ...]; `kept` values of x0 stay."""
    matrix = np.zeros((1 + kept, size + 2))
    matrix[0, 0], matrix[0, -2] = keep, weights[0]
    matrix[0, 1 : len(weights)] = weights[1:]
    values = np.eye(size + 2)[[-2, *range(1, size)]]  # x0 now, x0 before, ...
    matrix[1:] = values[:kept]
    return matrix


def _multistep_table(levels: list[Level], order: int) -> list[Step]:
    steps, size = [], 1
    for i, (number, kept) in enumerate(orders_and_history(levels, order)):
        steps.append(Step(levels[i], with_history(*multistep(levels, i, number), size, kept)))
        size = 1 + kept
    return steps


def dpmsolver_2m(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """DPM-Solver++(2M). Source: Lu et al. 2022, algorithm 2, midpoint form."""
    return _multistep_table(levels, 2)


def dpmsolver_3m(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """DPM-Solver++(3M), of order 3; see multistep() for what differs from its authors' code."""
    return _multistep_table(levels, 3)


def dpmsolver_2s(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """DPM-Solver++(2S): pairs of rows; the second row of a pair starts again from the point before the first.

    Source: Lu et al. 2022, algorithm 1, whose point in between is here the next grid point, as in diffusers.
    """
    # State [x], then [x at u, x at s, x0 at s]; an odd row at the end, and the one that ends at the clean image, are
    # of order 1.
    steps: list[Step] = []
    count, clean = len(levels) - 1, levels[-1].noise == 0
    index = 0
    while index < count:
        keep, weights = multistep(levels, index, 1)
        if index + 2 > count or (clean and index + 2 == count):
            steps.append(Step(levels[index], np.array([[keep, weights[0], 0.0]])))
            index += 1
            continue
        start, middle, then = levels[index : index + 3]
        steps.append(Step(start, np.array([[keep, weights[0], 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])))
        h = then.half_log_snr - start.half_log_snr
        # From a level without signal h is infinite as r0 is 0: the second value counts whole.
        ratio = (middle.half_log_snr - start.half_log_snr) / h if np.isfinite(h) else 1.0
        gain, c = -then.signal * np.expm1(-h), 1 / (2 * ratio)
        steps.append(Step(middle, np.array([[0.0, then.noise / start.noise, gain * (1 - c), gain * c, 0.0]])))
        index += 2
    return steps


def sde_dpmsolver_2m(levels: list[Level], config: SamplingConfig) -> list[Step]:
    """SDE-DPM-Solver++(2M), midpoint form: 2M's drift over twice h, and the noise of the reverse SDE.

    Source: Lu et al. 2022, section 5 and appendix B.
    """
    steps, size = [], 1
    for i, (number, kept) in enumerate(orders_and_history(levels, 2)):
        now, then = levels[i : i + 2]
        h = then.half_log_snr - now.half_log_snr
        gain = -np.expm1(-2 * h)
        weights = then.signal * gain * np.eye(number)[0]
        if number == 2:
            c = h / (2 * (now.half_log_snr - levels[i - 1].half_log_snr))
            weights += then.signal * gain * c * np.array([1.0, -1.0])
        keep = float(then.noise / now.noise * np.exp(-h))
        steps.append(Step(now, with_history(keep, weights, size, kept), float(then.noise * np.sqrt(gain))))
        size = 1 + kept
    return steps
