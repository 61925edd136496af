"""Sampling tables: a sampler is one row of numbers for every evaluation of the network, run by one short loop.

Float64 NumPy; imports no framework. A row (t, p, q, matrix, s) means

    raw = p * state[0] + q * network(state[0], t);  x0 = clip(raw, -1, 1) if clip else raw
    state = matrix @ [*state, x0, raw];  state[0] += s * z

The state starts as [x_T] with x_T ~ N(0, 1) and ends with the image as state[0]. run() is the reference executor;
the twins have the same loop on tensors. Histories hold the clipped x0, and eps is re-derived from it. The raw column
is for methods that keep the unclipped prediction; the samplers here leave it 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import SamplingConfig, Spacing
from core.diffusion.process import Process

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Row:
    """One evaluation of the network and the step after it."""

    t: float
    """Time at which the network is evaluated, 0-based, in [0, T - 1]."""
    p: float
    """Coefficient of state[0] in the predicted image."""
    q: float
    """Coefficient of the network's output in the predicted image."""
    matrix: Array
    """(K_out, K_in + 2): the next state from [*state, x0, raw]."""
    s: float
    """Standard deviation of the noise added to state[0]; no noise is drawn where it is 0."""


@dataclass(frozen=True)
class SamplingTable:
    """A sampler on a grid of timesteps."""

    rows: tuple[Row, ...]
    clip: bool
    """Clip the predicted image to [-1, 1] at every step."""
    name: str

    @property
    def nfe(self) -> int:
        """Number of evaluations of the network an image."""
        return len(self.rows)


@dataclass(frozen=True)
class _Level:
    """Signal and noise of one point of the sampling grid, and log-SNR / 2 = log(signal / noise)."""

    signal: float
    noise: float
    half_log_snr: float


def timesteps(spacing: Spacing, steps: int, T: int) -> NDArray[np.int64]:
    """Points of the training grid at which the network is evaluated.

    Args:
        spacing: leading (0, then every T // steps; leaves the noisiest levels out), trailing (from T - 1 down in steps
            of T / steps, rounded), linspace (from T - 1 to 0, both included).
        steps: evaluations, at most T.
        T: levels of the process.
    Returns:
        (steps,) int64, descending, distinct, in [0, T - 1].
    Raises:
        ValueError: steps out of range, or one step with a spacing that would put it at t = 0.
    Source: Lin et al. 2024, table 2 (there 1-based).
    """
    if not 1 <= steps <= T:
        raise ValueError(f"sampling.steps = {steps}: must be between 1 and process.timesteps = {T}")
    if steps == 1 and T > 1 and spacing != "trailing":
        raise ValueError(f"sampling.spacing = {spacing!r} with sampling.steps = 1: starts at t = 0; use trailing")
    if spacing == "leading":
        grid = np.arange(steps, dtype=np.float64) * (T // steps)
    elif spacing == "trailing":
        grid = np.round(np.arange(1, steps + 1) * T / steps) - 1
    elif spacing == "linspace":
        grid = np.round(np.linspace(0, T - 1, steps))
    else:
        raise ValueError(f"sampling.spacing = {spacing!r}: must be one of leading, trailing, linspace")
    return grid[::-1].astype(np.int64)


def make_table(process: Process, config: SamplingConfig) -> SamplingTable:
    """The table of a configured sampler.

    Args:
        process: forward process and prediction type.
        config: sampler, steps, spacing, eta, variance and clip are read.
    Returns:
        config.steps rows; each steps to the next grid point, the last to the clean image, without noise.
    Raises:
        ValueError: options that do not go together, more steps than levels, or neighbouring levels that are equal.
    Source: Ho et al. 2020 (ddpm); Song et al. 2021 (ddim); Lu et al. 2022, DPM-Solver++ (dpmsolver++).
    """
    if config.sampler not in _MATRICES:
        raise ValueError(f"sampling.sampler = {config.sampler!r}: must be one of {', '.join(_MATRICES)}")
    if config.eta != 0 and config.sampler != "ddim":
        raise ValueError(f"sampling.eta = {config.eta}: must be 0 with sampler {config.sampler}; only ddim has it")
    if config.variance != "fixed_small" and config.sampler != "ddpm":
        raise ValueError(
            f"sampling.variance = {config.variance!r}: must be 'fixed_small' with sampler {config.sampler}; "
            "only ddpm has others"
        )
    grid = _grid(config, process.timesteps)
    levels = [*_levels(process, grid), _Level(1.0, 0.0, np.inf)]
    for t, (now, then) in zip(grid, pairwise(levels), strict=True):
        if not now.half_log_snr < then.half_log_snr:
            raise ValueError(
                f"sampling.steps = {config.steps}: t = {t} has the same signal-to-noise ratio as the level after it; "
                "use fewer steps, or a schedule with distinct levels"
            )
    rows = tuple(
        Row(float(t), float(process.x0_from_xt[t]), float(process.x0_from_output[t]), matrix, s)
        for t, (matrix, s) in zip(grid, _MATRICES[config.sampler](levels, config), strict=True)
    )
    return SamplingTable(rows, config.clip, config.sampler)


def _grid(config: SamplingConfig, T: int) -> NDArray[np.int64]:
    # diffusers leaves t = 0 out of this solver's leading and linspace grids: the last step is of order 1, and short.
    if config.sampler != "dpmsolver++" or config.spacing == "trailing":
        return timesteps(config.spacing, config.steps, T)
    if config.steps >= T:
        raise ValueError(
            f"sampling.steps = {config.steps} with dpmsolver++ and spacing {config.spacing}: must be below "
            f"process.timesteps = {T}, since t = 0 is left out; use trailing"
        )
    return timesteps(config.spacing, config.steps + 1, T)[:-1]


def _levels(process: Process, grid: NDArray[np.int64]) -> list[_Level]:
    with np.errstate(divide="ignore"):  # no signal: -inf, which every formula below takes
        half_log_snr = np.log(process.signal[grid]) - np.log(process.noise[grid])
    columns = (process.signal[grid], process.noise[grid], half_log_snr)
    return [_Level(*map(float, values)) for values in zip(*columns, strict=True)]


def _ddpm(levels: list[_Level], config: SamplingConfig) -> list[tuple[Array, float]]:
    # Ho et al. 2020, eq. 6-7 with beta of the step taken, 1 - signal^2 / signal'^2, written as Kingma et al. 2021,
    # appendix A: with r = SNR / SNR' the mean is signal' (1 - r) x0 + r (signal' / signal) x_t and the variance
    # noise'^2 (1 - r). r signal' / signal = signal noise'^2 / (signal' noise^2) exists where signal is 0.
    steps = []
    for now, then in pairwise(levels):
        gain = -np.expm1(2 * (now.half_log_snr - then.half_log_snr))
        keep = now.signal * then.noise**2 / (then.signal * now.noise**2)
        # fixed_large is beta itself (Ho et al. 2020, section 3.2): no noise enters the image at the last step.
        deviation = now.noise if config.variance == "fixed_large" and then.noise > 0 else then.noise
        steps.append((np.array([[keep, then.signal * gain, 0.0]]), float(deviation * np.sqrt(gain))))
    return steps


def _ddim(levels: list[_Level], config: SamplingConfig) -> list[tuple[Array, float]]:
    # Song et al. 2021, eq. 12 and 16: x' = signal' x0 + sqrt(noise'^2 - s^2) eps + s z with eps = (x - signal x0) /
    # noise and s = eta noise' sqrt(1 - r). noise'^2 - s^2 = noise'^2 (1 - eta^2 + eta^2 r) cannot go below 0.
    steps = []
    for now, then in pairwise(levels):
        log_ratio = 2 * (now.half_log_snr - then.half_log_snr)
        direction = then.noise * np.sqrt((1 - config.eta**2) + config.eta**2 * np.exp(log_ratio))
        matrix = np.array([[direction / now.noise, then.signal - direction * now.signal / now.noise, 0.0]])
        steps.append((matrix, float(config.eta * then.noise * np.sqrt(-np.expm1(log_ratio)))))
    return steps


def _dpmsolver_plus_plus(levels: list[_Level], config: SamplingConfig) -> list[tuple[Array, float]]:
    # Lu et al. 2022, DPM-Solver++, algorithm 2 (2M): x' = (noise' / noise) x + signal' (1 - e^-h) D with h the step in
    # half log-SNR and D = x0 + (h / 2 h_before) (x0 - x0_before). The state is [x, x0_before]. Order 1 (D = x0) in the
    # first step, which has no history, and in the last, where h is infinite. After a level without signal h_before is
    # infinite and the extrapolation vanishes.
    steps: list[tuple[Array, float]] = []
    h_before = np.inf
    for index, (now, then) in enumerate(pairwise(levels)):
        h = then.half_log_snr - now.half_log_snr
        keep, gain = then.noise / now.noise, -then.signal * np.expm1(-h)
        first, last = index == 0, index == len(levels) - 2
        extrapolation = 0.0 if first or last else h / (2 * h_before)
        matrix = np.zeros((1 if last else 2, 3 if first else 4))
        matrix[0, 0] = keep
        matrix[0, -2] = gain * (1 + extrapolation)
        if not first:
            matrix[0, 1] = -gain * extrapolation
        if not last:
            matrix[1, -2] = 1.0
        steps.append((matrix, 0.0))
        h_before = h
    return steps


_MATRICES: dict[str, Callable[[list[_Level], SamplingConfig], list[tuple[Array, float]]]] = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "dpmsolver++": _dpmsolver_plus_plus,
}


def run(
    table: SamplingTable,
    network: Callable[[NDArray[Any], float], NDArray[Any]],
    x_T: NDArray[Any],
    noise: Callable[[int], NDArray[Any]],
    callback: Callable[[int, NDArray[Any], NDArray[Any]], None] | None = None,
) -> NDArray[Any]:
    """Run a table in NumPy: the reference for the twins' executors.

    Args:
        table: from make_table().
        network: (x_t, t) -> output, shaped as x_t.
        x_T: (B, ...) standard normal noise.
        noise: row index -> standard normal noise shaped as x_T; called only where the row adds noise.
        callback: called after each row with its index, state[0] and the predicted image.
    Returns:
        (B, ...) images; in [-1, 1] where the table clips, since the last row returns x0.
    """
    state = [x_T]
    for index, row in enumerate(table.rows):
        raw = row.p * state[0] + row.q * network(state[0], row.t)
        x_0 = np.clip(raw, -1, 1) if table.clip else raw
        entries = [*state, x_0, raw]
        state = [sum(c * entry for c, entry in zip(line, entries, strict=True) if c != 0) for line in row.matrix]
        if row.s != 0:
            state[0] = state[0] + row.s * noise(index)
        if callback is not None:
            callback(index, state[0], x_0)
    return state[0]
