"""Rungs 1 to 4: the tables, the parameters' names, the forward noise, the samplers on a network known in closed form.

A fault in core alters both frameworks alike, so that comparing them shows nothing: here core is held against the
definitions in closed_forms.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from core.config import Recipe, Sampler, SamplingConfig, Spacing
from core.diffusion.process import Process, make_process, q_sample
from core.diffusion.samplers import SAMPLERS, make_table
from core.diffusion.table import run
from core.images import resize
from core.networks.specs import param_specs, time_frequencies
from core.random import gaussian, generator, integers
from core.training.optim import ema_decay, is_decayed, is_orthogonalised, learning_rate, scalars
from core.training.training import Training
from core.worker.tasks import as_dataset
from eval.parity import closed_forms
from eval.parity.closed_forms import process_tables
from eval.parity.ladder import Board, Twins, part
from eval.parity.subject import Arrays, Subject, images_for, stress
from eval.parity.tolerances import (
    EXACT,
    FORWARD_NOISE,
    SAMPLER_FLOAT32,
    SAMPLER_FLOAT64,
    STATISTICS_SIGMA,
    TABLE,
)

MEAN, DEVIATION = 0.3, 0.4
"""Of the data whose optimal network is known: pixels drawn from N(0.3, 0.4^2)."""


def tables(twins: Twins, subject: Subject, board: Board) -> None:
    """Schedules and tables against closed forms."""
    process = make_process(subject.recipe.process)
    for name, expected in process_tables(subject.recipe.process).items():
        board.close(name, getattr(process, name), expected.astype(np.float64), TABLE)
    # A network that knows the image: every table of x̂_0 and ε̂ must give back what went in.
    x_0, eps = np.longdouble("0.7"), np.longdouble("-1.3")
    signal, noise = process.signal.astype(np.longdouble), process.noise.astype(np.longdouble)
    x_t, output = signal * x_0 + noise * eps, process.target_x0 * x_0 + process.target_eps * eps
    for name, value in (("x0", x_0), ("eps", eps)):
        p, q = getattr(process, f"{name}_from_xt"), getattr(process, f"{name}_from_output")
        scale = np.abs(p) + np.abs(q)  # what rounding is multiplied by: 1 / signal at the noisiest levels
        found = ((p * x_t + q * output - value) / scale + 1).astype(np.float64)
        board.close(f"{name} from x_t", found, np.ones(len(p)), TABLE)
    training = stress(subject.recipe, "float64", steps=200, warmup_steps=50).training
    n = np.arange(200)
    rate = training.learning_rate * np.minimum((n + 1) / 50, 1) * (0.1 + 0.9 * (1 + np.cos(np.pi * (n + 1) / 200)) / 2)
    board.close("learning rate", np.array([learning_rate(training, int(i)) for i in n]), rate, TABLE)
    found = np.array([scalars(training, int(i))["muon_lr"] for i in n])
    board.close("learning rate of Muon", found, training.muon_learning_rate * rate / training.learning_rate, TABLE)
    decay = np.minimum(training.ema_decay, (n + 2) / (n + 11))
    board.close("EMA decay", np.array([ema_decay(training, int(i)) for i in n]), decay, TABLE)
    frequencies = closed_forms.time_frequencies(subject.config).astype(np.float64)
    board.close("frequencies of the time embedding", time_frequencies(subject.config), frequencies, TABLE)


def parameters(twins: Twins, subject: Subject, board: Board) -> None:
    """Parameters by name and shape, in each framework as core lists them; which of them decay, and which are Muon's."""
    specs = param_specs(subject.config)
    decayed = {name: np.array(int(is_decayed(spec))) for name, spec in specs.items()}
    kernels = {name: np.array(int(spec.kind not in ("norm", "bias"))) for name, spec in specs.items()}
    board.all_close("weight decay on kernels and matrices alone", decayed, kernels, EXACT, floor=0.0)
    # Muon leaves embeddings, the first kernel and the last to Adam.
    inner = [name for name, spec in specs.items() if spec.kind in ("conv", "linear") and "emb" not in name][1:]
    last = ([name for name in inner if specs[name].kind == "conv"] or inner)[-1]
    of_muon = {name: np.array(int(name in inner and name != last)) for name in specs}
    taken = {name: np.array(int(is_orthogonalised(name, spec))) for name, spec in specs.items()}
    board.all_close("Muon on kernels and matrices inside", taken, of_muon, EXACT, floor=0.0)
    expected = {name: np.array(spec.shape) for name, spec in specs.items()}
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
    exact = process_tables(subject.recipe.process)
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


def keys(twins: Twins, subject: Subject, board: Board) -> None:
    """Keyed noise: another sample, step, purpose or seed is another, independent draw."""
    shape = (128, 128)
    first = gaussian(6, "x_T", [2], 3, shape)
    others = {
        "sample": gaussian(6, "x_T", [3], 3, shape),
        "step": gaussian(6, "x_T", [2], 4, shape),
        "purpose": gaussian(6, "sampler", [2], 3, shape),
        "seed": gaussian(7, "x_T", [2], 3, shape),
    }
    for name, other in others.items():
        # The product of independent standard normals has mean 0 and variance 1.
        sigmas = abs(float((first * other).mean())) * np.sqrt(first.size)
        where = f"{first.size:,} draws"
        quantity = f"correlation with another {name}'s noise"
        board.record(quantity, "float64", sigmas, STATISTICS_SIGMA, where, "standard errors")


def batches(twins: Twins, subject: Subject, board: Board) -> None:
    """Training batches of an epoch: every image once, in [-1, 1]; noise and levels by step and place; coefficients."""
    recipe = stress(subject.recipe, "float64")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, augment=False))
    size, seed, exact = recipe.training.batch_size, recipe.training.seed, process_tables(recipe.process)
    given = images_for(recipe, 3 * size)
    pixels, training = _as_seen(recipe, given["images"]), Training(recipe, as_dataset(given))
    found: dict[str, Arrays] = {}
    expected: dict[str, Arrays] = {}
    seen = []
    for step in range(3):
        batch = training.batch(step)
        # Which image each one is: the order is core's own to choose, as long as an epoch has them all.
        chosen = np.abs(batch["x_0"][:, None] - pixels).max(axis=(2, 3, 4)).argmin(axis=1)
        seen.append(chosen)
        ways = recipe.training
        plain = ways.timestep_sampling == "uniform" and not ways.stratified
        t = integers(seed, "training_t", range(size), step, recipe.process.timesteps) if plain else batch["t"]
        oracle = {"x_0": pixels[chosen], "t": t}
        oracle["eps"] = gaussian(seed, "training_eps", range(size), step, recipe.image_shape)
        of_level = ("time", "signal", "noise", "target_x0", "target_eps", "weight")
        oracle |= {name: exact[name][t].astype(np.float64) for name in of_level}
        oracle |= _condition(recipe, given, chosen, step)
        for name, value in oracle.items():
            found.setdefault(name, {})[f"step {step}"] = batch[name]
            expected.setdefault(name, {})[f"step {step}"] = value
    for name, values in expected.items():
        board.all_close(f"{name} of a batch", found[name], values, TABLE, floor=0.0)
    board.close("images of an epoch", np.sort(np.concatenate(seen)), np.arange(len(pixels)), EXACT)


def _as_seen(recipe: Recipe, images: NDArray[Any]) -> NDArray[np.float64]:
    """Images in [0, 1] in the network's range, with the square-root stretch of the recipe."""
    x, a = images.astype(np.float64), recipe.process.stretch
    if a:
        x = (np.sqrt(np.maximum(x, 0) + a) - np.sqrt(a)) / (np.sqrt(1 + a) - np.sqrt(a))
    return 2 * x - 1 if recipe.data.space == "image" else x


def _condition(recipe: Recipe, given: Arrays, chosen: NDArray[np.int64], step: int) -> Arrays:
    """What a batch is conditioned on: the images beside, and class and numbers, dropped by seed, step and place."""
    share, seed = recipe.training.condition_dropout, recipe.training.seed
    drawn = [generator(seed, "condition_dropout", place, step).random() for place in range(len(chosen))]
    dropped, oracle = np.array(drawn) < share, {}
    if "labels" in given:
        oracle["labels"] = np.where(dropped, recipe.classes or 0, given["labels"][chosen])
    if recipe.data.condition:
        columns = [given[f"parameters/{name}"] for name in recipe.data.condition]
        oracle["vector"] = np.stack([(c[chosen] - c.mean()) / c.std() for c in columns], axis=1)
        oracle["keep"] = 1.0 - dropped
    if "beside" in given:
        oracle["image"] = _as_seen(recipe, resize(given["beside"][chosen], *recipe.model.sample_size))
    return oracle


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
    """Whole sampling loops on a network known in closed form, against the samplers' formulas in NumPy."""
    recipe = subject.recipe
    process = make_process(recipe.process)
    slope, offset = optimal_network(process)
    steps = min(20, recipe.process.timesteps)
    chosen = {
        "ddpm": SamplingConfig("ddpm", steps),
        "ddim with noise": SamplingConfig("ddim", steps, eta=1.0),
        "dpmsolver++": SamplingConfig("dpmsolver++", steps),
        "the recipe's": recipe.sampling,
    }
    sigma_is_finite = bool(process.signal[-1] > 0)
    for sampler, row in SAMPLERS.items():
        if sampler not in closed_forms.SAMPLERS and (sigma_is_finite or not row.needs_signal):
            churn = 5.0 if "churn" in row.options else 0.0
            spacing: Spacing = "karras" if churn else "trailing"
            chosen[sampler] = SamplingConfig(cast(Sampler, sampler), steps, spacing, dynamic_threshold=0.9, churn=churn)
    for name, sampling in chosen.items():
        for dtype, tolerance in (("float64", SAMPLER_FLOAT64), ("float32", SAMPLER_FLOAT32)):
            x_T = gaussian(4, "x_T", range(3), 0, (4, 6, 2), dtype)

            def noise(row: int, kind: str = dtype) -> NDArray[np.float64]:
                return gaussian(4, "sampler", range(3), row, (4, 6, 2), kind).astype(np.float64)

            def at_level(x: NDArray[Any], level: int) -> NDArray[Any]:
                return np.asarray(slope[level] * x + offset[level])

            def at_time(x: NDArray[Any], t: float, kind: str = dtype) -> NDArray[Any]:
                # The nearest level, as the twins' network.
                return at_level(x, int(np.abs(process.time.astype(kind) - np.array(t, kind)).argmin()))

            # Formulas of the papers for three; for the others core's tables, which its tests hold against diffusers.
            start = x_T.astype(np.float64)
            if closed_forms.has(sampling):
                expected = closed_forms.sample(recipe.process, sampling, at_level, start, noise)
            else:
                expected = run(make_table(process, sampling), at_time, start, noise)
            arrays: Arrays = {"slope": slope.astype(dtype), "offset": offset.astype(dtype), "x_T": x_T}
            options = {"process": dataclasses.asdict(recipe.process), "sampling": dataclasses.asdict(sampling)}
            for framework, (found, _) in zip(
                twins, twins.both("sample_affine", arrays, seed=4, **options), strict=True
            ):
                board.close(f"{name} sampler, {framework}", found["x_0"], expected.astype(dtype), tolerance)
