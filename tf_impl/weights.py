"""The network's weights from and to arrays with canonical names and layout. Twin: torch_impl/weights.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from core.checkpoints.importing import read_unet, refuse_pickle
from core.config import ModelConfig
from core.networks.parameters import Kind
from core.networks.specs import check_weights, param_specs
from tf_impl.baseline_unet import BaselineUNet
from tf_impl.chart_net import ChartNet
from tf_impl.unet import UNet

Net = UNet | BaselineUNet | ChartNet
NETWORKS: dict[str, type[Net]] = {"unet": UNet, "baseline": BaselineUNet, "chart": ChartNet}
# Canonical layout -> Keras layout, and back.
TO_KERAS: dict[Kind, tuple[int, ...]] = {"conv": (2, 3, 1, 0), "linear": (1, 0)}  # OIHW -> HWIO, (out, in) -> (in, out)
FROM_KERAS: dict[Kind, tuple[int, ...]] = {"conv": (3, 2, 0, 1), "linear": (1, 0)}
ATTRIBUTES: dict[Kind, str] = {"conv": "kernel", "linear": "kernel", "embedding": "embeddings", "norm": "gamma"}


def build_unet(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Net:
    """A network with given weights, in evaluation mode.

    Args:
        config: the network.
        weights: every parameter by canonical name (OIHW).
        dtype: float32, float64, or a Keras dtype policy.
    """
    network = NETWORKS[config.architecture](config, dtype)
    _name_layers(network)
    set_weights(network, weights)
    return network


def _name_layers(network: Net) -> None:
    """Name every layer by its canonical path.

    Keras numbers layers by the process, and TensorFlow orders the terms of sums by name. With these names two trainings
    in one process are equal in every bit.
    """
    network.name = "network"
    for name in param_specs(network.config):
        parts = name.split(".")[:-1]
        for end in range(1, len(parts) + 1):
            layer = find_layer(network, ".".join(parts[:end]))
            if isinstance(layer, keras.layers.Layer):
                layer.name = "_".join(parts[:end])


def variables(network: Net) -> dict[str, Any]:
    """The Keras variable of every parameter, by canonical name, in the order of the specs."""
    found = {}
    for name, spec in param_specs(network.config).items():
        layer = find_layer(network, name.rsplit(".", 1)[0])
        bias = "beta" if hasattr(layer, "beta") else "bias"
        found[name] = getattr(layer, bias if spec.kind == "bias" else ATTRIBUTES[spec.kind])
    return found


def find_layer(network: Net, path: str) -> Any:
    """The layer at a canonical path, such as `down_blocks.0.resnets.1.conv1`."""
    layer: Any = network
    for part in path.split("."):
        layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
    return layer


def to_keras(kind: Kind, value: np.ndarray) -> np.ndarray:
    """An array in Keras's layout."""
    return value.transpose(TO_KERAS[kind]) if kind in TO_KERAS else value


def get_weights(network: Net) -> dict[str, np.ndarray]:
    """Copies of every parameter, by canonical name and in the canonical layout."""
    kinds = {name: spec.kind for name, spec in param_specs(network.config).items()}
    return {name: from_keras(kinds[name], variable.numpy()) for name, variable in variables(network).items()}


def from_keras(kind: Kind, value: np.ndarray) -> np.ndarray:
    """An array in the canonical layout, contiguous."""
    return np.ascontiguousarray(value.transpose(FROM_KERAS[kind]) if kind in FROM_KERAS else value)


def set_weights(network: Net, weights: Mapping[str, np.ndarray]) -> None:
    """Set every parameter of a network.

    Args:
        network: the network to change.
        weights: every parameter by canonical name (OIHW).
    Raises:
        ValueError: names or shapes differ from the network's, or a value is not finite.
    """
    check_weights(weights, network.config, "weights")
    kinds = {name: spec.kind for name, spec in param_specs(network.config).items()}
    for name, variable in variables(network).items():
        variable.assign(to_keras(kinds[name], weights[name]))


def load_unet(folder: str | Path, dtype: str = "float32") -> Net:
    """Open the network of a run, a checkpoint, a diffusers pipeline folder or a bare model folder.

    Args:
        folder: as core.checkpoints.importing.read_network() takes it.
        dtype: float32 or float64.
    Returns:
        The network in evaluation mode. It takes x (B, H, W, C), t (B,) and the condition by keyword.
    Raises:
        ValueError: the configuration or the weights are not supported.
    """
    config, weights = read_unet(folder)
    return build_unet(config, weights, dtype)


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Refuse a pickle, which only PyTorch reads.

    Raises:
        ValueError: always; the message says how to convert the file.
    """
    return refuse_pickle(path)
