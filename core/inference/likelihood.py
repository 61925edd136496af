"""Likelihood of images under a trained network: batches, keyed noise, and the numbers with their standard errors.

The mathematics is that of core.diffusion.bound and core.diffusion.flow_density.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.command_line import RunError
from core.config import Variance
from core.diffusion.bound import HALF_BIN, prior, quantised, term
from core.diffusion.flow_density import exact_probes, log_density
from core.diffusion.process import Process
from core.inference.sampling import BoundNetwork, Conditioned
from core.random import gaussian, generator, integers

Array = NDArray[np.float64]
Probe = Literal["rademacher", "normal", "exact"]
Progress = Callable[[int], object]


@dataclasses.dataclass(frozen=True)
class BoundOptions:
    """How the variational bound is computed."""

    variance: Variance = "fixed_small"
    """Of the reverse process."""
    clip: bool = True
    """Clip the predicted image to [-1, 1]."""
    levels: int = 0
    """Divergences an image: the levels above t = 0 are cut into as many runs and one is drawn from each; 0 for all."""
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class FlowOptions:
    """How the flow's density is computed."""

    steps: int = 50
    """Steps of the Runge-Kutta method, of 4 evaluations a probe each."""
    probe: Probe = "rademacher"
    """Random vectors of the trace's estimate, or exact, which takes one evaluation a pixel and channel."""
    probes: int = 1
    """Random vectors an image."""
    dequantise: bool = True
    """Add uniform noise as wide as a grey level to images of eight bits; otherwise the images' own values count."""
    seed: int = 0


def mean_and_error(values: Array) -> tuple[float, float]:
    """Mean over images and its standard error; NaN of one image."""
    count = len(values)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else float("nan")


def strata(timesteps: int, levels: int) -> NDArray[np.int64]:
    """Ends of the runs into which the levels t = 1 ... T - 1 are cut, (K + 1,); 0 levels for runs of one.

    Raises:
        ValueError: more runs than levels.
    """
    if not 0 <= levels < timesteps:
        raise ValueError(f"--levels {levels}: must be in [0, {timesteps - 1}], the levels above t = 0")
    count = levels or timesteps - 1
    # Short runs where there is little noise, since most bits are there: as the cube, but none empty.
    edges = 1 + np.round((timesteps - 1) * np.linspace(0, 1, count + 1) ** 3).astype(np.int64)
    return np.maximum(edges, 1 + np.arange(count + 1))


def bound(
    network: Conditioned, process: Process, images: np.ndarray, options: BoundOptions, batch_size: int, dtype: str,
    progress: Progress = lambda count: None,
) -> dict[str, Array]:  # fmt: skip
    """The variational bound of each image, in bits per dimension; noise is keyed, so that it is one in every batch.

    Args:
        network: conditioned for the N images.
        process: levels and prediction type.
        images: (N, H, W, C) in [0, 1]; rounded to eight bits.
        options: variance, clipping, levels and seed.
        batch_size: images at a time.
        dtype: of the network.
        progress: called with the number of evaluations (batches) done.
    Returns:
        prior, decoder, total (N,); divergences (N, K), each the sum over its run of levels, noisiest last.
    Raises:
        ValueError: levels out of range, or a variance that the process does not have.
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
    network: Conditioned, process: Process, images: np.ndarray, outputs: int, options: FlowOptions, batch_size: int,
    dtype: str, progress: Progress = lambda count: None,
) -> dict[str, Array]:  # fmt: skip
    """Negative log-likelihood of each image under the probability-flow ODE, in bits per dimension.

    Args:
        network, process, images, batch_size, dtype, progress: as bound(); images are not rounded unless
            options.dequantise.
        outputs: channels of the network's output, of which the image's come first.
        options: steps, probes, dequantisation and seed.
    Returns:
        total (N,). With dequantise an upper bound (on average over the noise) of the bits of an image of eight bits,
        of the same bins as the variational bound's decoder has; otherwise minus the log2 of the density in [-1, 1].
    Raises:
        ValueError: a process without signal at its last level.
        RunError: the result is not finite.
    Source: Song et al. 2021 (score SDE), section 4.3; Theis et al. 2016, section 3.1 (uniform noise), here as wide as the
        256 levels are apart and centred on them.
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
    """(K, B or 1, H, W, C), as log_density() wants them."""
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
