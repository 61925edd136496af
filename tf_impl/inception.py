"""The Inception network of the Fréchet Inception Distance, NHWC, at evaluation. Twin: torch_impl/inception.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from core.extractors.inception import (
    CLASSES,
    STAGES,
    Conv,
    Layer,
    Pool,
    check_inception,
    convolutions,
    folded,
    inception_shapes,
)
from core.extractors.inception_graph import graph_constants
from core.extractors.inception_input import INPUT_SCALE, input_matrices
from core.reading import check_file, reading
from core.twin import Published
from tf_impl.layers import linear


class Inception(keras.Model):
    """The network with its BatchNorm folded into the convolutions.

    Args:
        weights: every parameter by its published name (OIHW), BatchNorm's statistics included.
        dtype: float32 or float64.
    Raises:
        ValueError: names or shapes differ from the network's, or a value is not finite.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> None:
        super().__init__(dtype=dtype)
        check_inception(weights, "weights")
        self.convs = {conv.name: _conv(conv, dtype) for conv in convolutions()}
        # float64, at no cost: in float32 the sum of 2048 terms of either sign depends on the batch size, by 2e-6.
        self.fc = linear(STAGES[-1].width, CLASSES, "float64")
        values = folded(weights)
        for name, layer in {**self.convs, "fc": self.fc}.items():
            kernel = values[f"{name}.weight"]
            layer.kernel.assign(kernel.transpose((1, 0) if name == "fc" else (2, 3, 1, 0)))  # OIHW -> HWIO
            layer.bias.assign(values[f"{name}.bias"])
        self.built = True

    def call(self, x: Any) -> dict[str, Any]:
        """Evaluate the network.

        Args:
            x: (B, H, W, 3) as prepare() returns it; H and W at least 75 pixels.
        Returns:
            Features (B, d) by tap, see core.extractors.inception.TAPS.
        """
        features = {}
        for stage in STAGES:
            x = self._chain(stage.layers, x)
            features[stage.tap] = ops.mean(x, axis=(1, 2))
        unbiased = ops.matmul(ops.cast(features[STAGES[-1].tap], "float64"), self.fc.kernel)
        logits = {"logits_unbiased": unbiased, "logits": unbiased + self.fc.bias}
        return {**features, **{tap: ops.cast(value, x.dtype) for tap, value in logits.items()}}

    def _chain(self, layers: tuple[Layer, ...], x: Any) -> Any:
        """Apply layers one after another."""
        for layer in layers:
            if isinstance(layer, Conv):
                x = self.convs[layer.name](x)
            elif isinstance(layer, Pool):
                x = _pool(layer, x)
            else:
                x = ops.concatenate([self._chain(branch, x) for branch in layer.branches], axis=-1)
        return x


def _conv(conv: Conv, dtype: str) -> keras.layers.Conv2D:
    """A convolution with its ReLU, built. SAME pads as PyTorch does, since no padded convolution here has a stride."""
    padding = "same" if conv.padded else "valid"
    options = {"activation": "relu", "kernel_initializer": "zeros", "dtype": dtype}
    layer = keras.layers.Conv2D(conv.out_channels, conv.kernel, conv.stride, padding, **options)
    layer.build((None, None, None, conv.in_channels))
    return layer


def _pool(pool: Pool, x: Any) -> Any:
    """Apply a pooling layer. Its mean never counts the padding, in TensorFlow."""
    function = ops.max_pool if pool.kind == "max" else ops.average_pool
    padding = "same" if pool.stride == 1 else "valid"
    return function(x, 3, strides=pool.stride, padding=padding, data_format="channels_last")


def prepare(images: Any, resize: str) -> Any:
    """Resize images, map them to the network's range, and repeat grey images to three channels.

    Args:
        images: (B, H, W, C) float in [0, 1], C 1 or 3.
        resize: clean or legacy, see core.extractors.inception_input.RESIZES.
    Returns:
        (B, 299, 299, 3) of the same dtype.
    Raises:
        ValueError: another number of channels, or an unknown `resize`.
    """
    H, W, C = images.shape[1:]
    rows, columns = (ops.convert_to_tensor(matrix, images.dtype) for matrix in input_matrices((H, W, C), resize))
    x = ops.matmul(rows, ops.reshape(images, (-1, H, W * C)))  # (B, 299, W C)
    x = ops.matmul(columns, ops.reshape(x, (-1, rows.shape[0], W, C)))  # (B, 299, 299, C)
    return ops.repeat(x * INPUT_SCALE - 1, 3 // C, axis=-1)


def read_published(path: Path) -> dict[str, np.ndarray]:
    """Every parameter by its published name, from Google's graph (`classify_image_graph_def.pb`).

    Raises:
        ValueError: the file is another one, or damaged.
    """
    with reading(path, "a whole TensorFlow graph", "download it again"):
        check_file(path, 4)
        graph = tf.compat.v1.GraphDef()
        graph.ParseFromString(path.read_bytes())
        nodes = {node.name: node.attr["value"].tensor for node in graph.node if node.op == "Const"}
        tensors, shapes = {}, inception_shapes()
        for name, constant in graph_constants().items():
            if constant in nodes:  # the check below names missing constants
                tensors[name] = _constant(nodes[constant], name, shapes[name])
        check_inception(tensors, str(path))
        return tensors


def _constant(tensor: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A constant of the graph in PyTorch's layout. Its claimed shape is checked before an array is made of it."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), (0,))  # HWIO -> OIHW, (in, out) -> (out, in)
    claimed = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if len(claimed) != len(shape) or tuple(claimed[axis] for axis in axes) != shape:
        raise ValueError(f"{name} has shape {claimed} in its layout, the network needs {shape} in PyTorch's")
    return np.ascontiguousarray(tf.make_ndarray(tensor).transpose(axes))


# The graph of inception-2015-12-05.tgz, which OpenAI serves for its evaluations without the archive and over HTTPS.
PUBLISHED = Published(
    "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/classify_image_graph_def.pb",
    "009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6",
    read_published,
)
