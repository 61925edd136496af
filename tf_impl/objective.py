"""The training objective on tensors; its coefficients come from core. Twin: torch_impl/objective.py."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from core.config import Loss
from core.diffusion.bound import EDGE, HALF_BIN, OPEN_END, SERIES_FROM_FLOAT32, TAIL_SERIES
from core.inference.conditioning import CONDITIONS
from tf_impl.weights import Net


def losses(network: Net, batch: dict[str, Any], kind: Loss = "simple") -> Any:
    """The loss of each image: weighted mean squared error of the network's output, the variational bound, or both.

    Args:
        network: of either architecture.
        batch: `x_0`, `eps` (B, H, W, C); `time`, `signal`, `noise`, `target_x0`, `target_eps`, `weight` (B,);
            and the condition, by the names of core.inference.conditioning.CONDITIONS.
        kind: simple; or with a learned variance hybrid or vlb, which read the columns of core.diffusion.bound too.
    Returns:
        (B,); the loss is their mean. simple is `weight` times the mean over pixels of the squared error, vlb is
        `bound_weight` times the mean of bound(), and hybrid is the sum of both.
    Source: Ho et al. 2020, eq. 14; Salimans & Ho 2022 (v); Hang et al. 2023 (weights); Nichol & Dhariwal 2021 (hybrid,
        vlb).
    """
    x_0, eps = batch["x_0"], batch["eps"]
    signal, noise, a, b = (batch[k][:, None, None, None] for k in ("signal", "noise", "target_x0", "target_eps"))
    x_t = signal * x_0 + noise * eps
    target = a * x_0 + b * eps
    condition = {name: batch[name] for name in CONDITIONS if name in batch}
    output = network(x_t, batch["time"], **condition, training=True)
    output, channels = ops.cast(output, target.dtype), target.shape[-1]
    apart = output[..., :channels] - target
    error = ops.mean(ops.square(apart), axis=(1, 2, 3))  # (B,)
    if kind == "simple":
        return batch["weight"] * error
    # hybrid: the bound teaches the variance and not the mean; Nichol & Dhariwal 2021, section 3.1.
    given = apart if kind == "vlb" else ops.stop_gradient(apart)
    term = batch["bound_weight"] * ops.mean(bound(given, output[..., channels:], x_0, batch), axis=(1, 2, 3))
    return term if kind == "vlb" else batch["weight"] * error + term


def bound(apart: Any, fraction: Any, x_0: Any, batch: dict[str, Any]) -> Any:
    """A term of the variational bound at every pixel, in nats, by the formulas of core.diffusion.bound.

    Args:
        apart: (B, H, W, C) the output minus its target.
        fraction: (B, H, W, C) the second half of the output's channels, from -1 for the lower variance to 1.
        x_0: (B, H, W, C) images in [-1, 1].
        batch: `t`, `x0_from_output`, `snr_drop`, `log_variance_low`, `log_variance_gap` (B,).
    Source: Ho et al. 2020, eq. 5 and 13; Nichol & Dhariwal 2021, eq. 4-7 and 15.
    """
    names = ("t", "x0_from_output", "snr_drop", "log_variance_low", "log_variance_gap")
    t, q, drop, low, gap = (batch[name][:, None, None, None] for name in names)
    above, miss = (fraction + 1) / 2 * gap, q * apart
    divergence = (ops.expm1(-above) + above + ops.exp(-above) * drop * ops.square(miss)) / 2
    precision = ops.exp(-(low + above) / 2)
    centre = -miss * precision  # of the pixel's bin, in deviations from the mean
    start, end = centre - HALF_BIN * precision, centre + HALF_BIN * precision
    start = ops.where(x_0 < -EDGE, -OPEN_END, start)
    end = ops.where(x_0 > EDGE, OPEN_END, end)
    # A bin is a difference of two tails. On the side of the smaller tails the difference keeps its digits.
    flip = centre < 0
    near, far = ops.where(flip, -end, start), ops.where(flip, -start, end)
    likelihood = log_tail(near) + ops.log(-ops.expm1(log_tail(far) - log_tail(near)))
    return ops.where(t == 0, -likelihood, divergence)


def log_tail(z: Any) -> Any:
    """log P(Z > z) of a standard normal Z, without underflow."""
    small = ops.log(ops.erfc(ops.minimum(z, SERIES_FROM_FLOAT32) / math.sqrt(2)) / 2)
    large = ops.maximum(z, SERIES_FROM_FLOAT32)
    series = ops.ones_like(z)
    for factor in reversed(TAIL_SERIES):
        series = 1 - factor * series / ops.square(large)
    return ops.where(
        z < SERIES_FROM_FLOAT32, small, ops.log(series / (large * math.sqrt(2 * math.pi))) - ops.square(large) / 2
    )
