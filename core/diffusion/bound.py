"""The variational bound on the negative log-likelihood: its terms in bits per dimension, and its columns of a batch.

    -log P(x_0) <= KL(q(x_T | x_0) || p(x_T))  +  sum over t >= 1 of KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
                   -  log P(x_0 | x_t at t = 0)

Images are on the 256 levels of eight bits, in [-1, 1]. A twin evaluates the network at (x_t, t), nothing else.

A network that learns the variance trains on this bound too, on tensors (`bound` in a twin's objective.py). Its second
half of channels, v in [-1, 1], interpolates log variance between the posterior's (v = -1) and beta's (v = 1). With
x0_hat - x_0 = q (output - target) and d = -(v + 1) / 2 gap, the log of true over predicted variance, in nats a pixel:

    t > 0   L_t = (expm1(d) - d + e^d drop (x0_hat - x_0)^2) / 2        the KL divergence of two Gaussians
    t = 0   L_0 = -log P(the pixel's bin), 256 bins of width 2 / 255, under N(x0_hat, exp(low + (v + 1) / 2 gap))

This form takes no difference of two near numbers. Source: Nichol & Dhariwal 2021, eq. 4-7 and 15.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import Variance
from core.diffusion.grids import levels_at, start_of
from core.diffusion.process import Process, Steps, predict_x0

Array = NDArray[np.float64]

HALF_BIN = 1 / 255
"""Half the width of a pixel's bin, in [-1, 1]."""
EDGE = 0.999
"""A pixel beyond it is black or white: its bin has no end on that side; Ho et al. 2020, eq. 13."""
OPEN_END = 1e4
"""Where a bin without an end ends in the twins, in standard deviations."""
TAIL_SERIES = (1.0, 3.0, 5.0, 7.0)
"""P(Z > z) of a standard normal Z is its density / z times 1 - z^-2 (1 - 3 z^-2 (1 - 5 z^-2 (1 - 7 z^-2))).

Source: Abramowitz & Stegun 1964, 26.2.12.
"""
SERIES_FROM, SERIES_FROM_FLOAT32 = 25.0, 12.0
"""The z from which the series is used, since erfc underflows soon after: 1e-11 off in float64, 1.5e-8 in the twins."""
_erfc = np.frompyfunc(math.erfc, 1, 1)


def quantised(images: NDArray[Any]) -> Array:
    """Images in [0, 1] rounded to eight bits, in [-1, 1], float64."""
    result: Array = np.rint(np.clip(np.asarray(images, np.float64), 0, 1) * 255) / 127.5 - 1
    return result


def per_dimension(nats: NDArray[Any]) -> Array:
    """Bits per dimension (B,) from nats per pixel and channel, (B, ...)."""
    result: Array = nats.reshape(len(nats), -1).mean(axis=1) / math.log(2)
    return result


def gaussian_kl(mean: Any, log_variance: Any, other_mean: Any, other_log_variance: Any) -> Any:
    """KL(N(mean, variance) || N(other mean, other variance)) in nats."""
    gap = log_variance - other_log_variance
    return 0.5 * (np.expm1(gap) - gap + (mean - other_mean) ** 2 * np.exp(-other_log_variance))


def _at(table: Array, t: Steps, like: Array) -> Array:
    """Entries of a table at t, shaped to multiply images."""
    return table[t].reshape(-1, *[1] * (like.ndim - 1))


def log_tail(z: Array) -> Array:
    """log P(Z > z) of a standard normal Z, for z >= 0; each twin has it on tensors."""
    near = np.log(0.5 * np.asarray(_erfc(np.minimum(z, SERIES_FROM) / math.sqrt(2)), np.float64))
    far = np.maximum(z, SERIES_FROM)
    series: Any = 1.0
    for factor in reversed(TAIL_SERIES):
        series = 1 - factor * far**-2 * series
    return np.where(z < SERIES_FROM, near, -0.5 * far**2 - np.log(far) - 0.5 * math.log(2 * math.pi) + np.log(series))


def log_interval(low: Array, high: Array) -> Array:
    """log P(low < standard normal < high), exact in both tails; one end may be infinite."""
    mirror = low + high < 0  # so that the interval reaches above 0
    low, high = np.where(mirror, -high, low), np.where(mirror, -low, high)
    above, beyond = log_tail(np.maximum(low, 0)), log_tail(np.maximum(high, 0))
    one_side = above + np.log(-np.expm1(beyond - above))
    both = np.log1p(-np.exp(beyond) - np.exp(log_tail(np.maximum(-low, 0))))
    return np.where(low < 0, both, one_side)


def decoder(x_0: Array, mean: Array, log_variance: Any) -> Array:
    """-log P(x_0) in nats, of a Gaussian cut into the bins of 256 levels; the outer bins reach to infinity.

    Args:
        x_0: on the 256 levels of [-1, 1].
        mean, log_variance: of the Gaussian, broadcast against x_0.
    Source: Ho et al. 2020, eq. 13; the normal distribution itself, where their code has an approximation to it.
    """
    scale = np.exp(-0.5 * log_variance)
    low = np.where(x_0 < -EDGE, -np.inf, (x_0 - HALF_BIN - mean) * scale)
    high = np.where(x_0 > EDGE, np.inf, (x_0 + HALF_BIN - mean) * scale)
    return -log_interval(low, high)


def reverse_log_variance(process: Process, t: Steps, variance: Variance, fraction: NDArray[Any], like: Array) -> Any:
    """Log variance of p(x_{t-1} | x_t).

    Args:
        variance: fixed_small, fixed_large or learned.
        fraction: the network's output beyond the image's channels, in [-1, 1]; read where the variance is learned.
        like: (B, ...) images, for the shape.
    Source: Ho et al. 2020, section 3.2, and their code at t = 0, where both take the posterior's variance of t = 1;
        Nichol and Dhariwal 2021, eq. 15 (learned).
    """
    process.config.check_variance(variance, "variance")
    small = process.posterior_log_variance_clipped
    large = np.log(process.betas)
    if variance == "fixed_small":
        return _at(small, t, like)
    if variance == "fixed_large":
        return _at(np.append(small[:1], large[1:]), t, like)
    low, high = _at(small, t, like), _at(large, t, like)
    return low + (fraction + 1) / 2 * (high - low)


def prior(process: Process, x_0: Array) -> Array:
    """KL(q(x_T | x_0) || p(x_T)) in bits per dimension, (B,); p(x_T) is what sampling starts from.

    Source: Ho et al. 2020, eq. 5 (L_T).
    """
    (last,) = levels_at(process, np.array([process.timesteps - 1]))
    start = 2 * math.log(start_of(process, last))
    return per_dimension(gaussian_kl(last.signal * x_0, 2 * math.log(last.noise), 0.0, start))


def term(
    process: Process, x_0: Array, x_t: Array, t: Steps, output: NDArray[Any], variance: Variance, clip: bool
) -> Array:
    """One term of the bound, in bits per dimension: the decoder's at t = 0, a Kullback-Leibler divergence above.

    Args:
        x_0: (B, ..., C) images on the 256 levels of [-1, 1].
        x_t: (B, ..., C), x_0 with the noise of level t.
        t: (B,) integers.
        output: (B, ..., C or 2C), the network's at (x_t, t).
        variance: of the reverse process.
        clip: clip the predicted image to [-1, 1].
    Returns:
        (B,) float64.
    Raises:
        ValueError: t out of range, or a variance that the process does not have.
    Source: Ho et al. 2020, eq. 5 and 7.
    """
    channels = x_0.shape[-1]
    output = np.asarray(output, np.float64)
    predicted = predict_x0(process, x_t, t, output[..., :channels])
    predicted = np.clip(predicted, -1, 1) if clip else predicted
    of_x0, of_xt = (_at(table, t, x_0) for table in (process.posterior_mean_coef1, process.posterior_mean_coef2))
    log_variance = reverse_log_variance(process, t, variance, output[..., channels:], x_0)
    mean = of_x0 * predicted + of_xt * x_t
    true = _at(process.posterior_log_variance_clipped, t, x_0)
    nats = gaussian_kl(of_x0 * x_0 + of_xt * x_t, true, mean, log_variance)
    last = np.asarray(t) == 0
    if last.any():
        nats[last] = decoder(x_0[last], mean[last], np.broadcast_to(log_variance, x_0.shape)[last])
    return per_dimension(nats)


def bound_columns(process: Process) -> dict[str, Array]:
    """Columns that the bound needs in a training batch, besides core.diffusion.process.coefficients(), each (T,).

    Args:
        process: of a learned variance.
    Returns:
        `x0_from_output`: q of the module's docstring. `snr_drop`: SNR_{t-1} - SNR_t, 0 at t = 0.
        `log_variance_low`: of the posterior. `log_variance_gap`: log beta minus that.
        `bound_weight`: T of `vlb`, whose loss is then the whole bound in bits a pixel; vlb_weight T of `hybrid`.
    Source: Nichol & Dhariwal 2021, section 3.1, and its code, where L_t is in bits and lambda 0.001 T; Kingma et al.
        2021, eq. 13 (the drop).
    """
    config, T = process.config, process.timesteps
    drop = np.append(0.0, process.posterior_mean_coef1[1:] ** 2 / process.posterior_variance[1:])
    weight = T * (config.vlb_weight if config.loss == "hybrid" else 1.0) / math.log(2)
    return {
        "x0_from_output": process.x0_from_output,
        "snr_drop": drop,
        "log_variance_low": process.posterior_log_variance_clipped,
        "log_variance_gap": np.log(process.betas) - process.posterior_log_variance_clipped,
        "bound_weight": np.full(T, weight),
    }
