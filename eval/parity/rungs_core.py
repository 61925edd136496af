"""Rungs 1 to 4: the tables, the parameters' names, the forward noise, the samplers on a network known in closed form.

The oracles are formulas written out here in extended precision, on purpose not core's own way of computing them.
Imports NumPy, core and eval's own modules: no framework, no twin.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from core.config import ProcessConfig, SamplingConfig
from core.diffusion.noise import gaussian
from core.diffusion.process import Process, make_process, q_sample
from core.diffusion.samplers import make_table, run
from core.model.unet_spec import param_specs
from core.training.optim import ema_decay, learning_rate
from eval.parity.ladder import Arrays, Board, Subject, Twins, images_for, part, stress
from eval.parity.tolerances import (
    EXACT,
    FORWARD_NOISE,
    SAMPLER_FLOAT32,
    SAMPLER_FLOAT64,
    STATISTICS_SIGMA,
    TABLE,
)

Long = NDArray[np.longdouble]
MEAN, DEVIATION = 0.3, 0.4
"""Of the data whose optimal network is known: pixels drawn from N(0.3, 0.4^2)."""


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


def closed_forms(config: ProcessConfig) -> dict[str, Long]:
    """Tables over t from their definitions, (T,) in extended precision."""
    betas = _betas(config)
    bar = np.cumprod(1 - betas)
    before = np.append(np.longdouble(1), bar[:-1])
    signal, noise, zeros = np.sqrt(bar), np.sqrt(1 - bar), np.zeros_like(bar)
    target = {"eps": (zeros, zeros + 1), "x0": (zeros + 1, zeros), "v": (-noise, signal)}[config.prediction]
    return {
        "betas": betas,
        "alphas_cumprod": bar,
        "signal": signal,
        "noise": noise,
        "target_x0": target[0],
        "target_eps": target[1],
        "posterior_variance": betas * (1 - before) / (1 - bar),  # Ho et al. 2020, eq. 7
        "posterior_mean_coef1": np.sqrt(before) * betas / (1 - bar),
        "posterior_mean_coef2": np.sqrt(1 - betas) * (1 - before) / (1 - bar),
    }


def tables(twins: Twins, subject: Subject, board: Board) -> None:
    """Schedules and tables against closed forms."""
    process = make_process(subject.recipe.process)
    for name, expected in closed_forms(subject.recipe.process).items():
        board.close(name, getattr(process, name), expected.astype(np.float64), TABLE)
    # A network that knows the image: every table of x̂_0 and ε̂ must give back what went in.
    x_0, eps = np.longdouble("0.7"), np.longdouble("-1.3")
    signal, noise = process.signal.astype(np.longdouble), process.noise.astype(np.longdouble)
    x_t, output = signal * x_0 + noise * eps, process.target_x0 * x_0 + process.target_eps * eps
    for name, value in (("x0", x_0), ("eps", eps)):
        p, q = getattr(process, f"{name}_from_xt"), getattr(process, f"{name}_from_output")
        scale = np.abs(p) + np.abs(q)  # what rounding is multiplied by: 1 / signal at the noisiest levels
        board.close(f"{name} from x_t", ((p * x_t + q * output - value) / scale + 1).astype(np.float64), np.ones(len(p)), TABLE)  # fmt: skip
    training = stress(subject.recipe, "float64", steps=200, warmup_steps=50).training
    n = np.arange(200)
    rate = training.learning_rate * np.minimum((n + 1) / 50, 1) * (0.1 + 0.9 * (1 + np.cos(np.pi * (n + 1) / 200)) / 2)
    board.close("learning rate", np.array([learning_rate(training, int(i)) for i in n]), rate, TABLE)
    decay = np.minimum(training.ema_decay, (n + 2) / (n + 11))
    board.close("EMA decay", np.array([ema_decay(training, int(i)) for i in n]), decay, TABLE)


def parameters(twins: Twins, subject: Subject, board: Board) -> None:
    """Parameters by name and shape, in each framework as core lists them."""
    expected = {name: np.array(spec.shape) for name, spec in param_specs(subject.config).items()}
    recipe = stress(subject.recipe, "float32")
    for framework, worker in twins.items():
        arrays, _ = worker.call("train", images_for(recipe, 4), recipe=dataclasses.asdict(recipe), steps=0)
        shapes = {name: np.array(value.shape) for name, value in part("params", arrays).items()}
        board.all_close(f"names and shapes, {framework}", shapes, expected, EXACT, floor=0.0)


def forward_noise(twins: Twins, subject: Subject, board: Board) -> None:
    """The forward noise: x_t against the formula, and its mean and variance by level."""
    process, shape = make_process(subject.recipe.process), (16, 16, 1)
    count = 64
    levels = np.unique(np.linspace(0, process.timesteps - 1, 7).astype(int))
    exact = closed_forms(subject.recipe.process)
    x_0 = np.full((count, *shape), 0.25)
    worst = {"mean": (0.0, ""), "variance": (0.0, "")}
    for t in levels:
        steps = np.full(count, t)
        eps = gaussian(0, "training_eps", range(count), int(t), shape)
        signal, noise = exact["signal"][t], exact["noise"][t]
        expected = (signal * x_0 + noise * eps).astype(np.float64)
        found = q_sample(process, x_0.astype(np.float32), steps, eps.astype(np.float32)).astype(np.float32)
        board.close(f"x_t at t = {t}", found, expected.astype(np.float32), FORWARD_NOISE)
        # Standard errors of n normal draws: sigma / sqrt(n) of the mean, sigma^2 sqrt(2 / (n - 1)) of the variance.
        values, n, sigma = found.astype(np.float64).ravel(), found.size, float(noise)
        apart = abs(values.mean() - 0.25 * float(signal)) / (sigma / np.sqrt(n))
        worst["mean"] = max(worst["mean"], (apart, f"t = {t}, {n:,} draws"))
        apart = abs(values.var(ddof=1) - sigma**2) / (sigma**2 * np.sqrt(2 / (n - 1)))
        worst["variance"] = max(worst["variance"], (apart, f"t = {t}, {n:,} draws"))
    for name, (sigmas, where) in worst.items():
        board.record(f"{name} of x_t", "float32", sigmas, STATISTICS_SIGMA, where, "standard errors")


def optimal_network(process: Process) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and offset by t of the network that minimises the loss on pixels from N(MEAN, DEVIATION^2).

    Source: x̂_0 and ε̂ are the posterior means of jointly Gaussian variables; the output is a x̂_0 + b ε̂.
    """
    s, n, variance = process.signal, process.noise, DEVIATION**2
    total = s**2 * variance + n**2
    x_slope, eps_slope = s * variance / total, n / total
    slope = process.target_x0 * x_slope + process.target_eps * eps_slope
    offset = process.target_x0 * (MEAN - x_slope * s * MEAN) - process.target_eps * eps_slope * s * MEAN
    return slope, offset


def samplers(twins: Twins, subject: Subject, board: Board) -> None:
    """Whole sampling loops on a network known in closed form, against NumPy."""
    recipe = subject.recipe
    process = make_process(recipe.process)
    slope, offset = optimal_network(process)
    steps = min(20, process.timesteps)
    chosen = {
        "ddpm": SamplingConfig("ddpm", steps),
        "ddim with noise": SamplingConfig("ddim", steps, eta=1.0),
        "dpmsolver++": SamplingConfig("dpmsolver++", steps),
        "the recipe's": recipe.sampling,
    }
    for name, sampling in chosen.items():
        table = make_table(process, sampling)
        for dtype, tolerance in (("float64", SAMPLER_FLOAT64), ("float32", SAMPLER_FLOAT32)):
            x_T = gaussian(4, "x_T", range(3), 0, (4, 6, 2), dtype)
            expected = run(
                table, lambda x, t: slope[int(t)] * x + offset[int(t)], x_T.astype(np.float64),
                lambda row, kind=dtype: gaussian(4, "sampler", range(3), row, (4, 6, 2), kind).astype(np.float64),
            )  # fmt: skip
            arrays: Arrays = {"slope": slope.astype(dtype), "offset": offset.astype(dtype), "x_T": x_T}
            options = {"process": dataclasses.asdict(recipe.process), "sampling": dataclasses.asdict(sampling)}
            for framework, (found, _) in zip(
                twins, twins.both("sample_affine", arrays, seed=4, **options), strict=True
            ):
                board.close(f"{name} sampler, {framework}", found["x_0"], expected.astype(dtype), tolerance)
