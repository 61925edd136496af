"""The oracles of rungs 1 to 4: every table and sampler from its definition, in extended precision.

On purpose not core's own way of computing them, and nothing but the configuration is taken from core: a fault there
alters both frameworks alike, and shows against these alone. Imports NumPy and core.config.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from core.config import ModelConfig, ProcessConfig, SamplingConfig

Long = NDArray[np.longdouble]


def _betas(config: ProcessConfig) -> Long:
    """The schedule from its definition: Ho et al. 2020; Rombach et al. 2022; Nichol and Dhariwal 2021, eq. 17."""
    T, start, end = config.timesteps, np.longdouble(config.beta_start), np.longdouble(config.beta_end)
    u = np.arange(T, dtype=np.longdouble) / (T - 1)
    if config.schedule == "linear":
        betas = start + (end - start) * u
    elif config.schedule == "scaled_linear":
        betas = (np.sqrt(start) + (np.sqrt(end) - np.sqrt(start)) * u) ** 2
    elif config.schedule == "sigmoid":
        betas = start + (end - start) / (1 + np.exp(6 - 12 * u))
    else:
        s = np.longdouble("0.008")
        bar = np.cos((np.arange(T + 1, dtype=np.longdouble) / T + s) / (1 + s) * np.arccos(np.longdouble(0))) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], np.longdouble("0.999"))
    if not config.zero_terminal_snr:
        return betas
    root = np.sqrt(np.cumprod(1 - betas))  # Lin et al. 2024, algorithm 1
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return 1 - np.append(root[0] ** 2, (root[1:] / root[:-1]) ** 2)


def process_tables(config: ProcessConfig) -> dict[str, Long]:
    """Tables over t from their definitions, (T,) in extended precision."""
    betas = _betas(config)
    bar = np.cumprod(1 - betas)
    before = np.append(np.longdouble(1), bar[:-1])
    signal, noise, zeros = np.sqrt(bar), np.sqrt(1 - bar), np.zeros_like(bar)
    target = {"eps": (zeros, zeros + 1), "x0": (zeros + 1, zeros), "v": (-noise, signal)}[config.prediction]
    variance = betas * (1 - before) / (1 - bar)  # Ho et al. 2020, eq. 7
    return {
        "betas": betas,
        "alphas": 1 - betas,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "signal": signal,
        "noise": noise,
        "target_x0": target[0],
        "target_eps": target[1],
        "weight": _weight(config, bar),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.append(variance[1], variance[1:])),
        "posterior_mean_coef1": np.sqrt(before) * betas / (1 - bar),
        "posterior_mean_coef2": np.sqrt(1 - betas) * (1 - before) / (1 - bar),
    }


def _weight(config: ProcessConfig, bar: Long) -> Long:
    """The loss's weight; Hang et al. 2023, section 3.4: min(SNR, gamma) on x_0's error, in terms of the output's."""
    if config.loss_weight == "simple":
        return np.ones_like(bar)
    # With SNR = bar / (1 - bar): |eps error|^2 = SNR |x_0 error|^2 and |v error|^2 = |x_0 error|^2 / (1 - bar).
    gamma = np.longdouble(config.min_snr_gamma)
    if config.prediction == "eps":
        return np.minimum(1, gamma * (1 - bar) / bar)
    weight = np.minimum(bar, gamma * (1 - bar))
    return weight if config.prediction == "v" else weight / (1 - bar)


def time_frequencies(config: ModelConfig) -> Long:
    """Frequencies of the sinusoids of t; Vaswani et al. 2017, section 3.5: 10,000^(-2 i / channels)."""
    half = 128 if config.architecture == "baseline" else config.block_out_channels[0] // 2
    return np.longdouble(10_000) ** (-np.arange(half, dtype=np.longdouble) / (half - config.freq_shift))


SAMPLERS = ("ddpm", "ddim", "dpmsolver++")


def has(config: SamplingConfig) -> bool:
    """Whether sample() knows a configuration."""
    known = config.sampler in SAMPLERS and config.spacing in ("trailing", "leading", "linspace")
    return known and not config.nfe and not config.dynamic_threshold and config.variance != "learned"


def _grid(config: SamplingConfig, T: int) -> list[int]:
    """The levels at which a sampler evaluates the network, noisiest first; Lin et al. 2024, table 2."""
    # diffusers' dpmsolver++ leaves t = 0 out of all but trailing, by one point more.
    more = config.sampler == "dpmsolver++" and config.spacing != "trailing"
    points = config.steps + more
    if config.spacing == "trailing":
        grid = np.rint(T - np.arange(points) * T / points) - 1
    elif config.spacing == "leading":
        grid = np.arange(points)[::-1] * (T // points)
    else:
        grid = np.rint(np.linspace(0, T - 1, points))[::-1]
    return [int(t) for t in (grid[:-1] if more else grid)]


def sample(
    process: ProcessConfig,
    config: SamplingConfig,
    network: Callable[[Long, int], Long],
    x_T: NDArray[np.float64],
    noise: Callable[[int], NDArray[np.float64]],
) -> Long:
    """A sampler's whole loop, by its paper's formulas.

    Args:
        process, config: what is sampled, and how.
        network: (x_t, t) -> output.
        x_T: starting noise.
        noise: index of the step -> its noise; called where the step adds some.
    Source: Ho et al. 2020, algorithm 2, with beta of the step taken; Song et al. 2021, eq. 12 and 16; Lu et al. 2022,
        DPM-Solver++, algorithm 2 (2M), of order 1 in the first and the last step.
    """
    bars = process_tables(process)["alphas_cumprod"]
    grid = _grid(config, process.timesteps)
    ends = [*(bars[t] for t in grid[1:]), np.longdouble(1)]
    x, x_0_before, h_before = x_T.astype(np.longdouble), None, np.longdouble(np.inf)
    for index, (t, end) in enumerate(zip(grid, ends, strict=True)):
        bar, output = bars[t], network(x, t)
        signal, sigma = np.sqrt(bar), np.sqrt(1 - bar)
        if process.prediction == "eps":
            x_0 = (x - sigma * output) / signal
        else:
            x_0 = output if process.prediction == "x0" else signal * x - sigma * output
        x_0 = np.clip(x_0, -1, 1) if config.clip else x_0
        beta, added = 1 - bar / end, np.longdouble(0)
        if config.sampler == "ddpm":
            x = np.sqrt(end) * beta / (1 - bar) * x_0 + np.sqrt(1 - beta) * (1 - end) / (1 - bar) * x
            variance = beta if config.variance == "fixed_large" else (1 - end) / (1 - bar) * beta
            added = np.sqrt(variance) if end < 1 else added
        elif config.sampler == "ddim":
            share = config.eta**2 * beta / (1 - bar)  # of the noise that is drawn anew
            added = np.sqrt((1 - end) * share)
            x = np.sqrt(end) * x_0 + np.sqrt((1 - end) * (1 - share)) * (x - signal * x_0) / sigma
        elif end == 1:
            x = x_0
        else:
            with np.errstate(divide="ignore"):  # a level without signal: h is infinite
                h = np.log(np.sqrt(end) / np.sqrt(1 - end)) - np.log(signal / sigma)
            slope = 0 if x_0_before is None else h / (2 * h_before) * (x_0 - x_0_before)
            x = np.sqrt(1 - end) / sigma * x + np.sqrt(end) * (1 - np.exp(-h)) * (x_0 + slope)
            x_0_before, h_before = x_0, h
        if added:
            x = x + added * noise(index)
    return x
