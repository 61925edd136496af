"""The variational bound of a network that predicts the variance too, as columns of a training batch.

Float64 NumPy; imports no framework. The network's second half of channels, v in [-1, 1] once trained, interpolates the logarithms
of the posterior's variance (v = -1) and of beta (v = 1); Nichol & Dhariwal 2021, eq. 15. With x0_hat - x_0 = q (output - target):

    d = -(v + 1) / 2 gap                              log of true over predicted variance
    t > 0   L_t = (expm1(d) - d + e^d drop (x0_hat - x_0)^2) / 2        the KL divergence of two Gaussians
    t = 0   L_0 = -log P(the pixel's bin), 256 bins of width 2 / 255, under N(x0_hat, exp(low + (v + 1) / 2 gap))

in nats a pixel, without the difference of two near numbers. The twins have this on tensors.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from core.diffusion.process import Process

Array = NDArray[np.float64]

HALF_BIN = 1 / 255
"""Half a grey level of 255, in [-1, 1]."""
EDGE = 0.999
"""Pixels beyond it are black or white: their bin has no end on that side; Ho et al. 2020, eq. 13."""
FAR = 1e4
"""Where such a bin ends, in standard deviations."""
SWITCH = 12.0
"""Tails of a normal distribution beyond it are taken by their asymptotic series, since erfc underflows in float32 soon after."""
TAIL_SERIES = (1.0, 3.0, 5.0, 7.0)
"""1 - z^-2 (1 - 3 z^-2 (1 - 5 z^-2 (1 - 7 z^-2))), 1.5e-8 off at 12; Abramowitz & Stegun 1964, 26.2.12."""


def bound_columns(process: Process) -> dict[str, Array]:
    """What a training batch multiplies by besides core.diffusion.process.coefficients(), each (T,).

    Args:
        process: of a learned variance.
    Returns:
        `x0_from_output`: q above. `snr_drop`: SNR_{t-1} - SNR_t, 0 at t = 0. `log_variance_low`: of the posterior, and
        `log_variance_gap`, how far log beta is above it. `bound_weight`: T of `vlb`, whose loss is then the whole bound in bits
        a pixel; vlb_weight T of `hybrid`.
    Source: Nichol & Dhariwal 2021, section 3.1, and its code, where L_t is in bits and lambda 0.001 T; Kingma et al. 2021,
        eq. 13 (the drop).
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
