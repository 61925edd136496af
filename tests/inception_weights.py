"""Random weights of Inception that keep activations of order 1, and files of them in the published formats."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.extractors.inception import inception_shapes
from core.extractors.inception_graph import graph_constants


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Every parameter, float32: kernels of variance 1.2 / fan_in; BatchNorm's statistics and affine are random."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for name, shape in inception_shapes().items():
        value: np.ndarray = rng.standard_normal(shape, np.float32)
        if name.endswith("conv.weight"):
            value *= np.sqrt(1.2 / np.prod(shape[1:]))
        elif name.endswith("running_var") or name.endswith("bn.weight"):
            value = 1 + np.abs(value) / 2
        elif name == "fc.weight":
            value /= np.sqrt(shape[1])
        else:
            value *= 0.3
        weights[name] = value.astype(np.float32)
    return weights


def write_graph(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """A GraphDef whose constants have the published names, written byte by byte: no TensorFlow is needed.

    Source: tensorflow/core/framework: GraphDef.node = 1; NodeDef.name = 1, op = 2, attr = 5 (a map of key = 1 to
    value = 2); AttrValue.tensor = 8; TensorProto.dtype = 1, tensor_shape = 2, tensor_content = 4;
    TensorShapeProto.dim = 2, Dim.size = 1.
    """
    with open(path, "wb") as file:
        file.write(_field(1, _constant("ResizeBilinear/size", np.array([299, 299], np.int32))))
        file.write(_field(1, _field(1, b"ExpandDims") + _field(2, b"ExpandDims")))
        constants = graph_constants()
        for name, value in weights.items():
            axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)  # OIHW -> HWIO, (out, in) -> (in, out)
            file.write(_field(1, _constant(constants[name], value.transpose(axes) if axes else value)))


def _constant(name: str, value: np.ndarray) -> bytes:
    """A NodeDef."""
    kind = {"float32": 1, "int32": 3}[value.dtype.name]
    shape = b"".join(_field(2, _number(1, size)) for size in value.shape)
    tensor = _number(1, kind) + _field(2, shape) + _field(4, np.ascontiguousarray(value).tobytes())
    attribute = _field(1, b"value") + _field(2, _field(8, tensor))
    return _field(1, name.encode()) + _field(2, b"Const") + _field(5, attribute)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    groups = []
    while value >= 128:
        groups.append(value & 127 | 128)
        value >>= 7
    return struct.pack(f"{len(groups) + 1}B", *groups, value)
