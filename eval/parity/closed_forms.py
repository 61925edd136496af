"""The oracles of rungs 1 to 4: every table and sampler from its definition, in extended precision.

On purpose not core's own way of computing them, and nothing but the configuration is taken from core: a fault there
alters both frameworks alike, and shows against these alone. Imports NumPy and core.config.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from core.config import ModelConfig, ProcessConfig, SamplingConfig
from core.networks.specs import NETWORKS

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


def _levels(config: ProcessConfig) -> tuple[Long, Long, Long]:
    """Signal, noise and betas of a schedule from its definition.

    Source: above; Liu et al. 2023 and Esser et al. 2024, eq. 23 (flow); Karras et al. 2022, table 1 (edm).
    """
    T = config.timesteps
    if config.variance_preserving:
        betas = _betas(config)
        bar = np.cumprod(1 - betas)
        return np.sqrt(bar), np.sqrt(1 - bar), betas
    if config.schedule == "flow":
        s = np.arange(1, T + 1, dtype=np.longdouble) / T
        noise = config.shift * s / (1 + (np.longdouble(config.shift) - 1) * s)
        signal = 1 - noise
    else:
        low, high = np.longdouble(config.sigma_min), np.longdouble(config.sigma_max)
        sigma = low * (high / low) ** (np.arange(T, dtype=np.longdouble) / (T - 1))
        signal = 1 / np.sqrt(sigma**2 + np.longdouble(config.sigma_data) ** 2)
        noise = sigma * signal
    # x_t = (signal_t / signal_s) x_s + sqrt(beta) z must have the noise of level t.
    ratio = signal / np.append(np.longdouble(1), signal[:-1])
    return signal, noise, noise**2 - (ratio * np.append(np.longdouble(0), noise[:-1])) ** 2


def process_tables(config: ProcessConfig) -> dict[str, Long]:
    """Tables over t from their definitions, (T,) in extended precision."""
    signal, noise, betas = _levels(config)
    zeros, data = np.zeros_like(signal), np.longdouble(config.sigma_data)
    signal_before, noise_before = np.append(np.longdouble(1), signal[:-1]), np.append(np.longdouble(0), noise[:-1])
    target = {
        "eps": (zeros, zeros + 1),
        "x0": (zeros + 1, zeros),
        "v": (-noise, signal),
        "flow": (zeros - 1, zeros + 1),
        "edm": (noise / (data * _input(config, signal, noise)), -data * signal / _input(config, signal, noise)),
    }[config.prediction]
    variance = betas * noise_before**2 / noise**2  # Ho et al. 2020, eq. 7
    steps = np.arange(config.timesteps, dtype=np.longdouble)
    return {
        "time": config.timesteps * noise if config.schedule == "flow" else steps,
        "betas": betas,
        "alphas": (signal / signal_before) ** 2,
        "alphas_cumprod": signal**2,
        "alphas_cumprod_prev": signal_before**2,
        "signal": signal,
        "noise": noise,
        "target_x0": target[0],
        "target_eps": target[1],
        "weight": _weight(config, signal, noise),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.append(variance[1], variance[1:])),
        "posterior_mean_coef1": signal_before * betas / noise**2,
        "posterior_mean_coef2": signal / signal_before * noise_before**2 / noise**2,
    }


def _input(config: ProcessConfig, signal: Long, noise: Long) -> Long:
    """Standard deviation of x_t over data of deviation sigma_data; Karras et al. 2022, appendix B.6, times signal."""
    return np.sqrt(noise**2 + (np.longdouble(config.sigma_data) * signal) ** 2)


def _weight(config: ProcessConfig, signal: Long, noise: Long) -> Long:
    """The loss's weight: one of the squared error of x_0, in terms of that of the output.

    Source: Hang et al. 2023, section 3.4 (min_snr); Choi et al. 2022, eq. 8 (p2); Karras et al. 2022, table 1 (edm).
    """
    if config.loss_weight == "simple":
        return np.ones_like(signal)
    with np.errstate(divide="ignore"):  # eps is not predicted where there is no signal
        per_output = {
            "eps": (noise / signal) ** 2,
            "x0": np.ones_like(signal),
            "v": 1 - signal**2,
            "flow": (noise / (signal + noise)) ** 2,
            "edm": (noise * np.longdouble(config.sigma_data) / _input(config, signal, noise)) ** 2,
        }[config.prediction]
    snr, data = (signal / noise) ** 2, np.longdouble(config.sigma_data)
    per_image: dict[str, Long] = {
        "min_snr": np.minimum(snr, np.longdouble(config.min_snr_gamma)),
        "p2": snr * (np.longdouble(config.p2_k) + snr) ** -np.longdouble(config.p2_gamma),
        "edm": (noise**2 + (data * signal) ** 2) / (noise * data) ** 2,
    }
    return np.asarray(per_output * per_image[config.loss_weight])


def time_frequencies(config: ModelConfig) -> Long:
    """Frequencies of the sinusoids of t; Vaswani et al. 2017, section 3.5: 10,000^(-2 i / channels)."""
    half = NETWORKS[config.architecture].sinusoids(config) // 2
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
    signals, noises, _ = _levels(process)
    data = np.longdouble(process.sigma_data)
    grid = _grid(config, process.timesteps)
    ends = [*zip(signals[grid[1:]], noises[grid[1:]], strict=True), (np.longdouble(1), np.longdouble(0))]
    # The image's part of the first state is left out where the variance is not preserved.
    start = np.longdouble(1) if process.variance_preserving else noises[grid[0]]
    x, x_0_before, h_before = start * x_T.astype(np.longdouble), None, np.longdouble(np.inf)
    for index, (t, (after, rest)) in enumerate(zip(grid, ends, strict=True)):  # signal and noise of the next level
        signal, sigma, output = signals[t], noises[t], network(x, t)
        if process.prediction == "eps":
            x_0 = (x - sigma * output) / signal
        elif process.prediction == "flow":  # output = eps - x_0
            x_0 = (x - sigma * output) / (signal + sigma)
        elif process.prediction == "edm":  # c_skip y + c_out output with y = x / signal
            scale = sigma**2 + (data * signal) ** 2
            x_0 = data**2 * signal / scale * x + data * sigma / np.sqrt(scale) * output
        else:
            x_0 = output if process.prediction == "x0" else signal * x - sigma * output
        x_0 = np.clip(x_0, -1, 1) if config.clip else x_0
        beta, added = sigma**2 - (signal / after * rest) ** 2, np.longdouble(0)
        if config.sampler == "ddpm":
            x = after * beta / sigma**2 * x_0 + signal / after * rest**2 / sigma**2 * x
            variance = beta if config.variance == "fixed_large" else rest**2 / sigma**2 * beta
            added = np.sqrt(variance) if rest > 0 else added
        elif config.sampler == "ddim":
            share = config.eta**2 * beta / sigma**2  # of the noise that is drawn anew
            added = rest * np.sqrt(share)
            x = after * x_0 + rest * np.sqrt(1 - share) * (x - signal * x_0) / sigma
        elif rest == 0:
            x = x_0
        else:
            with np.errstate(divide="ignore"):  # a level without signal: h is infinite
                h = np.log(after / rest) - np.log(signal / sigma)
            slope = 0 if x_0_before is None else h / (2 * h_before) * (x_0 - x_0_before)
            x = rest / sigma * x + after * (1 - np.exp(-h)) * (x_0 + slope)
            x_0_before, h_before = x_0, h
        if added:
            x = x + added * noise(index)
    return x
