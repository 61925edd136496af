"""The training objective on tensors; its coefficients come from core. Twin: torch_impl/objective.py."""

from __future__ import annotations

from typing import Any

from keras import ops

from core.conditioning import CONDITIONS
from tf_impl.unet import UNet


def loss(network: UNet, batch: dict[str, Any]) -> Any:
    """Weighted mean squared error between the network's output and its target.

    Args:
        network: the U-Net.
        batch: `x_0`, `eps` (B, H, W, C); `time`, `signal`, `noise`, `target_x0`, `target_eps`, `weight` (B,);
            and what the network is conditioned on, by the names of core.conditioning.CONDITIONS.
    Returns:
        Scalar: mean over the batch of weight[t] times the mean over pixels of the squared error.
    Source: Ho et al. 2020, eq. 14; Salimans & Ho 2022 (v); Hang et al. 2023 (weights).
    """
    x_0, eps = batch["x_0"], batch["eps"]
    signal, noise, a, b = (batch[k][:, None, None, None] for k in ("signal", "noise", "target_x0", "target_eps"))
    x_t = signal * x_0 + noise * eps
    target = a * x_0 + b * eps
    condition = {name: batch[name] for name in CONDITIONS if name in batch}
    output = network(x_t, batch["time"], **condition, training=True)
    error = ops.mean(ops.square(ops.cast(output, target.dtype) - target), axis=(1, 2, 3))  # (B,)
    return ops.mean(batch["weight"] * error)
