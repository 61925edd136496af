"""dict[str, ndarray] with canonical names and layout <-> the network. Twin: tf_impl/weights.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from core.config import ModelConfig
from core.model.checkpoint import check_weights, read_unet
from torch_impl.unet import UNet


def build_unet(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> UNet:
    """A network with given weights, in evaluation mode.

    Args:
        config: the network.
        weights: every parameter by canonical name (OIHW).
        dtype: float32 or float64.
    """
    network = UNet(config).to(getattr(torch, dtype))
    set_weights(network, weights)
    return network.eval()


def get_weights(network: UNet) -> dict[str, np.ndarray]:
    """Every parameter by canonical name, as copies."""
    return {name: p.detach().cpu().numpy().copy() for name, p in network.named_parameters()}


@torch.no_grad()
def set_weights(network: UNet, weights: Mapping[str, np.ndarray]) -> None:
    """Load every parameter.

    Raises:
        ValueError: names or shapes differ from the network's, or a value is not finite.
    """
    check_weights(weights, network.config, "weights")
    for name, p in network.named_parameters():
        p.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))


def load_unet(folder: str | Path, dtype: str = "float32") -> UNet:
    """Open the network of a run, a checkpoint, a diffusers pipeline folder or a bare model folder.

    Args:
        folder: see core.model.checkpoint.read_unet.
        dtype: float32 or float64.
    Returns:
        The network in evaluation mode: called with x (B, C, H, W), t (B,) and labels (B,) or None.
    Raises:
        ValueError: a configuration or weights that are not supported.
    """
    config, weights = read_unet(folder)
    return build_unet(config, weights, dtype)
