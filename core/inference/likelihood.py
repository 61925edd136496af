"""Likelihood of images under a trained network: batches, keyed noise, means and standard errors.

The mathematics is in core.diffusion.bound and core.diffusion.flow_density.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.config import Variance
from core.diffusion.bound import HALF_BIN, prior, quantised, term
from core.diffusion.flow_density import exact_probes, log_density
from core.diffusion.process import Process
from core.exits import RunError
from core.inference.sampling import BoundNetwork, Conditioned
from core.random import gaussian, generator, integers

Array = NDArray[np.float64]
Probe = Literal["rademacher", "normal", "exact"]
Progress = Callable[[int], object]


@dataclasses.dataclass(frozen=True)
class BoundOptions:
    """How the variational bound is computed."""

    variance: Variance = "fixed_small"
    """Variance of the reverse process."""
    clip: bool = True
    """Clip the predicted image to [-1, 1]."""
    levels: int = 0
    """Number of divergences for each image. The timesteps above 0 are cut into as many intervals, and one timestep is
    drawn from each; 0 takes every timestep."""
    seed: int = 0
    """Seed of the noise and of the timesteps drawn."""


@dataclasses.dataclass(frozen=True)
class FlowOptions:
    """How the density under the flow is computed."""

    steps: int = 50
    """Steps of the Runge-Kutta method. A step takes 4 evaluations for each random vector."""
    probe: Probe = "rademacher"
    """Distribution of the random vectors that estimate the trace; exact takes one evaluation a pixel and channel."""
    probes: int = 1
    """Number of random vectors for each image."""
    dequantise: bool = True
    """Round images to eight bits and add uniform noise as wide as a grey level; False takes the images' own values."""
    seed: int = 0
    """Seed of the random vectors and of the uniform noise."""


def mean_and_error(values: Array) -> tuple[float, float]:
    """Mean over images and its standard error, which is NaN for a single image."""
    count = len(values)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else float("nan")


def strata(timesteps: int, levels: int) -> NDArray[np.int64]:
    """Ends of the K intervals into which the timesteps t = 1 ... T - 1 are cut, (K + 1,).

    Args:
        timesteps: T, the number of timesteps.
        levels: K, the number of intervals; 0 gives every timestep its own.
    Raises:
        ValueError: more intervals than timesteps above 0.
    """
    if not 0 <= levels < timesteps:
        raise ValueError(f"--levels {levels}: must be in [0, {timesteps - 1}], the levels above t = 0")
    count = levels or timesteps - 1
    # Ends at the cube of even shares, so that intervals are short where there is little noise: most bits are there.
    edges = 1 + np.round((timesteps - 1) * np.linspace(0, 1, count + 1) ** 3).astype(np.int64)
    return np.maximum(edges, 1 + np.arange(count + 1))


def bound(
    network: Conditioned,
    process: Process,
    images: np.ndarray,
    options: BoundOptions,
    batch_size: int,
    dtype: str,
    progress: Progress = lambda count: None,
) -> dict[str, Array]:
    """The variational bound of each image, in bits per dimension; it does not depend on the batch size.

    Args:
        network: network, conditioned for the N images.
        process: forward process and prediction type.
        images: (N, H, W, C) in [0, 1]; they are rounded to eight bits.
        options: variance, clipping, levels and seed.
        batch_size: number of images evaluated at a time.
        dtype: dtype of the network, float32 or float64.
        progress: called with the number of evaluations (batches) done.
    Returns:
        `prior`, `decoder` and `total` (N,); `divergences` (N, K), each the sum over an interval of timesteps, the
        noisiest last.
    Raises:
        ValueError: options.levels out of range, or a variance that the process does not have.
        RunError: the network's output is not finite.
    """
    edges = strata(process.timesteps, options.levels)
    count, shape = len(images), images.shape[1:]
    terms = np.empty((count, len(edges)))  # the decoder, and a divergence a run
    priors = np.empty(count)
    for start in range(0, count, batch_size):
        chosen = np.arange(start, min(start + batch_size, count))
        x_0 = quantised(images[chosen])
        priors[chosen] = prior(process, x_0)
        bound_network = network.bind(chosen)
        for k in range(len(edges)):
            t, size = np.zeros(len(chosen), np.int64), 1
            if k > 0:
                size = int(edges[k] - edges[k - 1])
                t = edges[k - 1] + integers(options.seed, "likelihood_t", chosen, k, size)
            eps = gaussian(options.seed, "likelihood_eps", chosen, k, shape)
            signal, noise = (table[t][:, None, None, None] for table in (process.signal, process.noise))
            x_t = (signal * x_0 + noise * eps).astype(dtype)
            output = bound_network.evaluate(x_t, process.time[t].astype(dtype))
            terms[chosen, k] = size * term(process, x_0, x_t, t, output, options.variance, options.clip)
            progress(1)
    result = {"prior": priors, "decoder": terms[:, 0], "divergences": terms[:, 1:], "total": priors + terms.sum(axis=1)}
    return _finite(result)


def flow_bits(
    network: Conditioned,
    process: Process,
    images: np.ndarray,
    outputs: int,
    options: FlowOptions,
    batch_size: int,
    dtype: str,
    progress: Progress = lambda count: None,
) -> dict[str, Array]:
    """Negative log-likelihood of each image under the probability-flow ODE, in bits per dimension.

    Args:
        network, process, images, batch_size, dtype, progress: as in bound(). Images are rounded only with
            options.dequantise.
        outputs: number of channels of the network's output; the image's channels come first.
        options: steps, random vectors, dequantisation and seed.
    Returns:
        `total` (N,). With options.dequantise it is an upper bound, on average over the noise, on the bits of an image
        of eight bits, with the bins of the variational bound's decoder. Otherwise it is minus the log2 of the density
        of values in [-1, 1].
    Raises:
        ValueError: a process without signal at its last timestep.
        RunError: the result is not finite.
    Source: Song et al. 2021 (score SDE), section 4.3; Theis et al. 2016, section 3.1 (uniform noise), here as wide as
        the 256 levels are apart and centred on them.
    """
    shape, total = images.shape[1:], np.empty(len(images))
    extra = [(0, 0)] * 3 + [(0, outputs - shape[-1])]
    for start in range(0, len(images), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(images)))
        x_0, offset = 2 * np.asarray(images[chosen], np.float64) - 1, 0.0
        if options.dequantise:
            draws = [generator(options.seed, "dequantise", int(i)).uniform(-1, 1, shape) for i in chosen]
            x_0, offset = quantised(images[chosen]) + HALF_BIN * np.stack(draws), -math.log2(2 * HALF_BIN)
        bound_network = network.bind(chosen)

        def product(x: Array, t: float, v: Array, on: BoundNetwork = bound_network) -> tuple[np.ndarray, np.ndarray]:
            padded = np.pad(v, extra).astype(dtype)
            progress(1)
            return on.vector_jacobian(x.astype(dtype), np.full(len(x), t, dtype), padded)

        nats, _ = log_density(process, product, x_0, _probes(options, chosen, shape), options.steps)
        total[chosen] = offset - nats / (x_0[0].size * math.log(2))
    return _finite({"total": total})


def _probes(options: FlowOptions, chosen: NDArray[np.int64], shape: tuple[int, ...]) -> Array:
    """The random vectors of a batch, (K, B or 1, H, W, C), as log_density() takes them."""
    if options.probe == "exact":
        return exact_probes(shape)
    drawn = np.stack([gaussian(options.seed, "trace", chosen, k, shape) for k in range(options.probes)])
    return (np.sign(drawn) if options.probe == "rademacher" else drawn) / math.sqrt(options.probes)


def _finite(result: dict[str, Array]) -> dict[str, Array]:
    broken = int((~np.isfinite(result["total"])).sum())
    if broken:
        raise RunError(
            f"likelihood of {broken} of {len(result['total'])} images is not finite: use an earlier checkpoint"
        )
    return result
