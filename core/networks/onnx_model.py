"""A network as an ONNX model, written from its plan and its parameters, without a framework.

The model's inputs are x (B, C, H, W), t (B,) and the network's conditions by keyword; its output is `output`. The batch
size is free, the image size fixed. It needs the package onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.config import ModelConfig
from core.networks.baseline_graph import BaselineGraph
from core.networks.onnx_graph import Graph
from core.networks.unet_graph import UNetGraph

GRAPHS: dict[str, type[UNetGraph] | type[BaselineGraph]] = {"unet": UNetGraph, "baseline": BaselineGraph}
OPSET = 18
IR_VERSION = 8
"""The version of the file's format that came with this opset, so that older runtimes open it."""


def onnx_model(config: ModelConfig, weights: Mapping[str, np.ndarray]) -> bytes:
    """The network as the content of an .onnx file, with float32 parameters.

    Args:
        config: the network.
        weights: every parameter by canonical name (OIHW).
    Raises:
        ValueError: an architecture that has no graph, or parameters that no .onnx file can hold.
    """
    from onnx import TensorProto, helper

    if config.architecture not in GRAPHS:
        raise ValueError(f"model.architecture = {config.architecture}: only {' and '.join(GRAPHS)} have an ONNX graph")
    if sum(value.size for value in weights.values()) * 4 > 2_000_000_000:
        raise ValueError("the network's parameters take more than the 2 GB that an ONNX model can hold")
    graph = Graph(weights)
    output = GRAPHS[config.architecture](graph, config).write()
    graph.nodes.append(helper.make_node("Identity", [output], ["output"]))

    def tensor(name: str, *shape: int) -> Any:
        kind = TensorProto.INT64 if name == "labels" else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, ("batch", *shape))

    size = config.sample_size
    inputs = [tensor("x", config.image_channels, *size), tensor("t")]
    if config.num_class_embeds:
        inputs.append(tensor("labels"))
    if config.vector_channels:
        inputs += [tensor("vector", config.vector_channels), tensor("keep")]
    if config.condition_channels:
        inputs.append(tensor("image", config.condition_channels, *size))
    outputs = [tensor("output", config.out_channels, *size)]
    whole = helper.make_graph(graph.nodes, "network", inputs, outputs, list(graph.constants.values()))
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    content: bytes = model.SerializeToString()
    return content
