"""Sampling grids: the noise levels at which a sampler evaluates the network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from core.config import Spacing
from core.diffusion.process import Process

Array = NDArray[np.float64]

KARRAS_RHO = 7.0
CONTINUOUS: tuple[Spacing, ...] = ("log_snr", "karras")
"""Spacings whose points lie between the training levels; the network is given a fractional t."""


@dataclass(frozen=True)
class Level:
    """Signal and noise of one point of a grid, and log-SNR / 2 = log(signal / noise)."""

    t: float
    """Time that the network is given there; NaN at the clean image, where there is no evaluation."""
    signal: float
    noise: float
    half_log_snr: float

    @property
    def sigma(self) -> float:
        """noise / signal, EDM's sigma; infinite where there is no signal."""
        return float(np.exp(-self.half_log_snr))


CLEAN = Level(float("nan"), 1.0, 0.0, float("inf"))


def timesteps(spacing: Spacing, steps: int, T: int) -> NDArray[np.int64]:
    """Points of the training grid at which the network is evaluated.

    Args:
        spacing: leading (0, then every T // steps; leaves the noisiest levels out), trailing (from T - 1 down in steps
            of T / steps, rounded), linspace (from T - 1 to 0, both included), quadratic (likewise, t as the square of
            evenly spaced numbers: more points where there is little noise).
        steps: evaluations, at most T.
        T: levels of the process.
    Returns:
        (steps,) int64, descending, distinct, in [0, T - 1].
    Raises:
        ValueError: steps out of range, or one step with a spacing that would put it at t = 0.
    Source: Lin et al. 2024, table 2 (there 1-based); Song et al. 2021, appendix D.2 (quadratic, here to t = T - 1).
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
    elif spacing == "quadratic":
        # At least i, so that the points that are rounded to the same level stay distinct.
        grid = np.maximum(np.round(np.linspace(0, np.sqrt(T - 1), steps) ** 2), np.arange(steps))
    else:
        raise ValueError(f"sampling.spacing = {spacing!r}: must be one of leading, trailing, linspace, quadratic")
    return grid[::-1].astype(np.int64)


def start_of(process: Process, level: Level) -> float:
    """Standard deviation of the state that sampling starts from at a level.

    It is 1, or the level's noise where the variance is not preserved: there the image's part is small, or 0 on a flow.
    """
    return 1.0 if process.config.variance_preserving else level.noise


def levels_at(process: Process, t: NDArray[np.int64]) -> list[Level]:
    """Points of the training grid as levels."""
    with np.errstate(divide="ignore"):  # no signal: -inf, which every formula takes
        half_log_snr = np.log(process.signal[t]) - np.log(process.noise[t])
    columns = (process.time[t], process.signal[t], process.noise[t], half_log_snr)
    return [Level(*map(float, values)) for values in zip(*columns, strict=True)]


def level_of(process: Process, half_log_snr: float) -> Level:
    """The level of a given signal-to-noise ratio, between training levels or outside them.

    Args:
        process: whose levels all hold signal, or a flow.
        half_log_snr: log(signal / noise), finite.
    Returns:
        Exact signal and noise. Time is interpolated linearly in half_log_snr (exact on edm; on flow it is T noise) and
        kept in the training range.
    Raises:
        ValueError: a process with a level that holds no signal.
    """
    signal, noise = process.config.signal_and_noise(half_log_snr)
    if process.config.schedule == "flow":
        t = float(np.clip(process.timesteps * noise, process.time[0], process.time[-1]))
        return Level(t, signal, noise, half_log_snr)
    if process.signal[-1] == 0:
        raise ValueError(
            f"level t = {process.timesteps - 1} holds no signal, so that there are no steps in log-SNR from it; "
            "use sampling.spacing trailing or linspace"
        )
    known = np.log(process.signal / process.noise)
    t = float(np.interp(-half_log_snr, -known, process.time))
    return Level(t, signal, noise, half_log_snr)


def sampling_grid(process: Process, spacing: Spacing, steps: int, without_zero: bool = False) -> list[Level]:
    """The levels at which a sampler evaluates the network, from noise to image.

    Args:
        process: forward process.
        spacing: as timesteps(); or log_snr (evenly in log-SNR from level T - 1 to level 0) or karras (evenly in
            sigma^(1/7), between the same ends).
        steps: points.
        without_zero: leave t = 0 out of leading and linspace, as solvers whose last step is of order 1 do.
    Returns:
        `steps` levels of falling noise; the clean image is not among them.
    Raises:
        ValueError: as timesteps() and level_of(), or neighbouring levels that are equal.
    Source: Lu et al. 2022, DPM-Solver, section 3.3 (log_snr); Karras et al. 2022, eq. 5 (karras).
    """
    T = process.timesteps
    if spacing in CONTINUOUS:
        if not 1 <= steps <= T:
            raise ValueError(f"sampling.steps = {steps}: must be between 1 and process.timesteps = {T}")
        if process.signal[-1] == 0:
            raise ValueError(
                f"sampling.spacing = {spacing!r}: level t = {T - 1} holds no signal, so that there are no steps in "
                "log-SNR from it; use trailing or linspace"
            )
        first, last = levels_at(process, np.array([T - 1, 0]))
        if spacing == "log_snr":
            inner = np.linspace(first.half_log_snr, last.half_log_snr, steps)
        else:
            ends = first.sigma ** (1 / KARRAS_RHO), last.sigma ** (1 / KARRAS_RHO)
            inner = -KARRAS_RHO * np.log(np.linspace(*ends, steps))
        between = [level_of(process, float(value)) for value in inner[1:-1]]
        levels = [first, *between, last][:steps]
    elif without_zero and spacing in ("leading", "linspace"):
        if steps >= T:
            raise ValueError(
                f"sampling.steps = {steps} with spacing {spacing}: must be below process.timesteps = {T} for this "
                "sampler, which leaves t = 0 out; use trailing"
            )
        levels = levels_at(process, timesteps(spacing, steps + 1, T)[:-1])
    else:
        levels = levels_at(process, timesteps(spacing, steps, T))
    for now, then in pairwise(levels):
        if not now.half_log_snr < then.half_log_snr:
            raise ValueError(
                f"sampling.steps = {steps}: t = {now.t:g} has the same signal-to-noise ratio as the level after it; "
                "use fewer steps, or a schedule with distinct levels"
            )
    return levels
