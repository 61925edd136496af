"""What the network can predict, and how its error is weighed at each noise level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.config import ProcessConfig

Array = NDArray[np.float64]


def conversions(signal: Array, noise: Array, config: ProcessConfig) -> dict[str, Array]:
    """The target, and how image and noise follow from the output, at any noise levels.

    Args:
        signal, noise: equal shapes, of levels that need not be those of a table.
        config: prediction is read, and sigma_data for edm.
    Returns:
        target_x0, target_eps, x0_from_xt, x0_from_output, eps_from_xt and eps_from_output, of the same shape.
    Raises:
        ValueError: an eps-prediction over a level that holds no signal.
    Source: Ho et al. 2020, eq. 14 (eps); Salimans and Ho 2022, appendix D (v); Liu et al. 2023, eq. 1 (flow, here
        towards noise); Karras et al. 2022, eq. 8 and table 1 (edm).
    """
    # x_t = signal x_0 + noise eps and target = a x_0 + b eps, solved for x_0 and eps. The determinant
    # signal b - noise a is written out, since signal^2 + noise^2 = 1 would be rounded.
    zeros, ones = np.zeros_like(signal), np.ones_like(signal)
    if config.prediction == "eps":
        a, b, determinant = zeros, ones, signal
        if np.any(signal == 0):
            raise ValueError(
                f"process.prediction = 'eps': level t = {int(np.argmin(signal))} holds no signal, so noise "
                "predicted there says nothing of the image; use prediction v or x0, or a smaller process.beta_end"
            )
    elif config.prediction == "x0":
        a, b, determinant = ones, zeros, -noise
    elif config.prediction == "v":
        a, b, determinant = -noise, signal.copy(), ones
    elif config.prediction == "flow":
        a, b, determinant = -ones, ones, signal + noise
    elif config.prediction == "edm":
        # F = (x_0 - c_skip y) / c_out with y = x_0 + sigma eps, c_skip = sigma_data^2 / (sigma^2 + sigma_data^2) and
        # c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2); -v where sigma_data is 1.
        data = config.sigma_data
        scale = np.hypot(noise, data * signal)
        a, b, determinant = noise / (data * scale), -data * signal / scale, -scale / data
    else:
        raise ValueError(f"process.prediction = {config.prediction!r}: must be one of eps, x0, v, flow, edm")
    return {
        "target_x0": a,
        "target_eps": b,
        "x0_from_xt": b / determinant + 0.0,  # + 0.0 turns -0.0 into 0.0
        "x0_from_output": -noise / determinant,
        "eps_from_xt": -a / determinant + 0.0,
        "eps_from_output": signal / determinant,
    }


def loss_weight(snr: Array, x0_from_output: Array, config: ProcessConfig) -> Array:
    """Weight of the squared error of the network's output.

    Args:
        snr: signal^2 / noise^2 of each level.
        x0_from_output: of conversions().
        config: loss_weight and the parameters of each are read.
    Source: Hang et al. 2023, section 3.4 (min_snr); Choi et al. 2022, eq. 8 (p2); Karras et al. 2022, table 1 (edm).
    """
    # x0_hat = p x_t + q output, so that the squared error of x_0 is q^2 times that of the output. Each weight is one of
    # x_0's error, carried over to the output's own.
    if config.loss_weight == "simple":
        return np.ones_like(snr)
    if config.loss_weight == "min_snr":  # Hang et al. 2023, section 3.4
        of_x0 = np.minimum(snr, config.min_snr_gamma)
    elif config.loss_weight == "p2":  # Choi et al. 2022, eq. 8, of eps, whose squared error is SNR times that of x_0
        of_x0 = snr / (config.p2_k + snr) ** config.p2_gamma
    elif config.loss_weight == "edm":  # Karras et al. 2022, table 1: (sigma^2 + d^2) / (sigma d)^2, sigma^2 = 1 / SNR
        of_x0 = snr + 1 / config.sigma_data**2
    else:
        raise ValueError(f"process.loss_weight = {config.loss_weight!r}: must be one of simple, min_snr, p2, edm")
    weights: Array = of_x0 * x0_from_output**2
    return weights
