"""The feature extractor for images of strong lenses, NHWC. Twin: torch_impl/lens_extractor.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from core.extractors.lens import CONVOLUTIONS, FEATURES, HEADS, PARAM_SPECS, check_lens_weights, prepare
from tf_impl.device import pick_device
from tf_impl.layers import linear
from tf_impl.weights import to_keras


class LensExtractor(keras.Model):
    """The network of core.extractors.lens."""

    def __init__(self, dtype: Any = "float32") -> None:
        super().__init__(dtype=dtype)
        for c in CONVOLUTIONS:
            # call() pads for every layer, since SAME with stride 2 pads (0, 1) where PyTorch pads (1, 1).
            layer = keras.layers.Conv2D(c.out_channels, c.size, c.stride, "valid", dtype=dtype)
            layer.build((None, None, None, c.in_channels))
            setattr(self, c.name, layer)
        for name, width in HEADS.items():
            setattr(self, f"to_{name}", linear(FEATURES, width, dtype))
        self.built = True

    def call(self, x: Any) -> dict[str, Any]:
        """Evaluate the network.

        Args:
            x: (B, 64, 64, 3), as core.extractors.lens.prepare() returns it.
        Returns:
            `features` (B, 128), `parameters` (B, 8) and `logits` (B, 3).
        """
        for c in CONVOLUTIONS:
            edge = (c.padding, c.padding)
            x = ops.silu(getattr(self, c.name)(ops.pad(x, ((0, 0), edge, edge, (0, 0)))))
        features = x[:, 0, 0, :]  # the last map is one pixel
        return {"features": features, **{name: getattr(self, f"to_{name}")(features) for name in HEADS}}


def build_lens_network(weights: Mapping[str, np.ndarray], dtype: str = "float32") -> LensExtractor:
    """The network with given weights.

    Args:
        weights: every parameter of core.extractors.lens.PARAM_SPECS.
        dtype: float32 or float64.
    Raises:
        ValueError: names or shapes differ from the network's, or a value is not finite.
    """
    check_lens_weights(weights, "weights")
    network = LensExtractor(dtype)
    for name, spec in PARAM_SPECS.items():
        layer, kind = name.split(".")
        variable = getattr(getattr(network, layer), {"weight": "kernel", "bias": "bias"}[kind])
        variable.assign(to_keras(spec.kind, weights[name]))
    return network


def make_lens_extractor(
    weights: Mapping[str, np.ndarray], dtype: str = "float32", device: str = "auto"
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The lens extractor.

    Args:
        weights: as core.extractors.lens_weights.read_lens_weights() returns them.
        dtype: float32 or float64.
        device: where to compute; see pick_device().
    Returns:
        A function from square images (N, H, W, 1) in [0, 1], of 32 to 150 pixels a side, to arrays of that dtype:
        `features` (N, 128), `parameters` (N, 8), with angles in units of the field's side, and `logits` (N, 3). It
        raises ValueError for other images.
    """
    with tf.device(pick_device(device, dtype)):
        network = build_lens_network(weights, dtype)

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        parts = []
        for x in prepare(images, dtype):
            parts.append({name: value.numpy() for name, value in network(ops.convert_to_tensor(x)).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return extract
