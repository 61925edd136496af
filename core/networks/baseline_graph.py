"""The baseline network as an ONNX graph, stage by stage from its plan."""

from __future__ import annotations

import numpy as np

from core.config import ModelConfig
from core.networks.baseline import HEADS, NORM_EPS, Stage, baseline_plan
from core.networks.onnx_graph import Graph
from core.networks.specs import time_frequencies


class BaselineGraph:
    """Adds the baseline network to a graph whose inputs are x, t and, with classes, labels.

    Args:
        graph: the graph, which has the network's parameters.
        config: the network.
    """

    def __init__(self, graph: Graph, config: ModelConfig) -> None:
        self.graph, self.config = graph, config
        self.size = config.sample_size  # of the image at the stage being written

    def write(self) -> str:
        """Add all operations; returns the name of the output (B, C, H, W)."""
        g = self.graph
        time = g.sinusoids(time_frequencies(self.config), flip=False)
        if self.config.num_class_embeds:
            time = g.op("Add", time, g.op("Gather", g.parameter("label_emb.weight"), "labels"))
        time, x, skips = g.silu(time), "x", []
        for stage in baseline_plan(self.config):
            if stage.kind == "double_conv":
                x = self._double_conv(stage.name, x)
            elif stage.kind == "attention":
                x = self._attention(stage, x)
            elif stage.kind == "down":
                skips.append(x)
                x = self._down(stage, x, time)
            else:
                x = self._up(stage, x, skips.pop(), time)
        return g.conv("outc", x)

    def _double_conv(self, name: str, x: str, residual: bool = False) -> str:
        g, name = self.graph, f"{name}.double_conv"
        h = g.gelu(g.group_norm(f"{name}.1", g.conv(f"{name}.0", x), 1, self.size, NORM_EPS))
        h = g.group_norm(f"{name}.4", g.conv(f"{name}.3", h), 1, self.size, NORM_EPS)
        return g.gelu(g.op("Add", x, h)) if residual else h

    def _down(self, stage: Stage, x: str, time: str) -> str:
        self.size = (self.size[0] // 2, self.size[1] // 2)
        x = self.graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        return self._two_double_convs(stage, f"{stage.name}.maxpool_conv", 1, x, time)

    def _up(self, stage: Stage, x: str, skip: str, time: str) -> str:
        self.size = (2 * self.size[0], 2 * self.size[1])
        how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
        x = self.graph.op("Resize", x, "", np.array([1.0, 1.0, 2.0, 2.0]), **how)
        x = self.graph.op("Concat", skip, x, axis=1)
        return self._two_double_convs(stage, f"{stage.name}.conv", 0, x, time)

    def _two_double_convs(self, stage: Stage, path: str, first: int, x: str, time: str) -> str:
        """Two double convolutions, the first of them residual, and the time embedding's projection."""
        g = self.graph
        x = self._double_conv(f"{path}.{first + 1}", self._double_conv(f"{path}.{first}", x, residual=True))
        return g.op("Add", x, g.reshape(g.linear(f"{stage.name}.emb_layer.1", time), 0, -1, 1, 1))

    def _attention(self, stage: Stage, x: str) -> str:
        g, (H, W), C, name = self.graph, self.size, stage.in_channels, stage.name
        x = g.op("Transpose", g.reshape(x, 0, C, H * W), perm=[0, 2, 1])  # (B, HW, C)
        h = g.layer_norm(f"{name}.ln", x, NORM_EPS)
        weight, bias = (g.weights[f"{name}.mha.in_proj_{part}"] for part in ("weight", "bias"))
        rows = [slice(i * C, (i + 1) * C) for i in range(3)]
        q, k, v = (g.op("Add", g.op("MatMul", h, weight[part].T), bias[part]) for part in rows)
        x = g.op("Add", x, g.linear(f"{name}.mha.out_proj", g.attention(q, k, v, HEADS, H * W, C)))
        h = g.gelu(g.linear(f"{name}.ff_self.1", g.layer_norm(f"{name}.ff_self.0", x, NORM_EPS)))
        x = g.op("Add", x, g.linear(f"{name}.ff_self.3", h))
        return g.reshape(g.op("Transpose", x, perm=[0, 2, 1]), 0, C, H, W)
