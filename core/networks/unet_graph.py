"""The U-Net as an ONNX graph, block by block from its plan."""

from __future__ import annotations

import numpy as np

from core.config import ModelConfig
from core.networks.onnx_graph import Graph
from core.networks.specs import time_frequencies
from core.networks.unet import AttentionPlan, ConvPlan, ResnetPlan, unet_plan


class UNetGraph:
    """Adds the U-Net to a graph whose inputs are x, t and the network's conditions.

    Args:
        graph: the graph, which has the network's parameters.
        config: the network.
    """

    def __init__(self, graph: Graph, config: ModelConfig) -> None:
        self.graph, self.config = graph, config
        self.activation = {"silu": graph.silu, "gelu": graph.gelu}[config.act_fn]
        height, width = config.sample_size
        self.size = (height // config.patch_size, width // config.patch_size)  # of the level being written

    def write(self) -> str:
        """Add all operations; returns the name of the output (B, C, H, W)."""
        g, plan, time, x = self.graph, unet_plan(self.config), self._time(), "x"
        if self.config.condition_channels:
            x = g.op("Concat", x, "image", axis=1)
        if self.config.center_input_sample:
            x = g.op("Sub", g.op("Mul", x, np.array(2.0)), np.array(1.0))
        x = g.conv("conv_in", self._patches(x))
        skips = [x]
        for block in plan.down:
            for i, resnet in enumerate(block.resnets):
                x = self._resnet(resnet, x, time)
                x = self._attention(block.attentions[i], x) if block.attentions else x
                skips.append(x)
            if block.resampler is not None:
                x = self._resize(block.resampler, x, time)
                skips.append(x)
        if plan.mid is not None:
            x = self._resnet(plan.mid.resnets[0], x, time)
            x = self._attention(plan.mid.attentions[0], x) if plan.mid.attentions else x
            x = self._resnet(plan.mid.resnets[1], x, time)
        for block in plan.up:
            for i, resnet in enumerate(block.resnets):
                x = self._resnet(resnet, g.op("Concat", x, skips.pop(), axis=1), time)
                x = self._attention(block.attentions[i], x) if block.attentions else x
            if block.resampler is not None:
                x = self._resize(block.resampler, x, time)
        x = g.conv("conv_out", g.silu(self._norm("conv_norm_out", x)))
        patch = self.config.patch_size
        return x if patch == 1 else g.op("DepthToSpace", x, blocksize=patch, mode="CRD")

    def _patches(self, x: str) -> str:
        """The squares of patch_size pixels a side as channels."""
        g, patch, (H, W), C = self.graph, self.config.patch_size, self.size, self.config.in_channels
        if patch == 1:
            return x
        x = g.op("Transpose", g.reshape(x, 0, C, H, patch, W, patch), perm=[0, 1, 3, 5, 2, 4])
        return g.reshape(x, 0, C * patch * patch, H, W)

    def _time(self) -> str:
        """The embedding of the timestep, class and parameters, after the activation function: (B, time_channels)."""
        g = self.graph
        sinusoids = g.sinusoids(time_frequencies(self.config), self.config.flip_sin_to_cos)
        time = self._two_layers("time_embedding", sinusoids)
        if self.config.num_class_embeds:
            time = g.op("Add", time, g.op("Gather", g.parameter("class_embedding.weight"), "labels"))
        if self.config.vector_channels:
            keep = g.reshape("keep", -1, 1)
            vector = g.op("Concat", g.op("Mul", "vector", keep), keep, axis=1)
            time = g.op("Add", time, self._two_layers("vector_embedding", vector))
        return self.activation(time)

    def _two_layers(self, name: str, x: str) -> str:
        g = self.graph
        return g.linear(f"{name}.linear_2", g.silu(g.linear(f"{name}.linear_1", x)))

    def _norm(self, name: str, x: str, groups: int | None = None) -> str:
        return self.graph.group_norm(name, x, groups or self.config.norm_num_groups, self.size, self.config.norm_eps)

    def _resnet(self, plan: ResnetPlan, x: str, time: str) -> str:
        g, name = self.graph, plan.name
        h = self.activation(self._norm(f"{name}.norm1", x))
        if plan.resample is not None:
            h, x = self._resample(plan.resample, h), self._resample(plan.resample, x)
            self._rescale(plan.resample)
        h = g.conv(f"{name}.conv1", h)
        time = g.reshape(g.linear(f"{name}.time_emb_proj", time), 0, -1, 1, 1)
        if self.config.resnet_time_scale_shift == "scale_shift":
            h = self._norm(f"{name}.norm2", h)
            scale, shift = (g.channels(time, i * plan.out_channels, (i + 1) * plan.out_channels) for i in range(2))
            h = g.op("Add", g.op("Mul", h, g.op("Add", scale, np.array(1.0))), shift)
        else:
            h = self._norm(f"{name}.norm2", g.op("Add", h, time))
        h = g.conv(f"{name}.conv2", self.activation(h))
        x = g.conv(f"{name}.conv_shortcut", x) if plan.has_shortcut else x
        return g.divide(g.op("Add", x, h), plan.scale_factor)

    def _attention(self, plan: AttentionPlan, x: str) -> str:
        g, (H, W), C = self.graph, self.size, plan.channels
        h = x if plan.groups is None else self._norm(f"{plan.name}.group_norm", x, plan.groups)
        h = g.op("Transpose", g.reshape(h, 0, C, H * W), perm=[0, 2, 1])  # (B, HW, C)
        q, k, v = (g.linear(f"{plan.name}.{part}", h) for part in ("to_q", "to_k", "to_v"))
        h = g.linear(f"{plan.name}.to_out.0", g.attention(q, k, v, plan.heads, H * W, C))
        h = g.reshape(g.op("Transpose", h, perm=[0, 2, 1]), 0, C, H, W)
        return g.divide(g.op("Add", h, x), plan.scale_factor)

    def _resize(self, plan: ResnetPlan | ConvPlan, x: str, time: str) -> str:
        """The layer at the end of a level."""
        if isinstance(plan, ResnetPlan):
            return self._resnet(plan, x, time)
        self._rescale(plan.resample)
        if plan.resample == "up":
            return self.graph.conv(f"{plan.name}.conv", self._resample("up", x))
        return self.graph.conv(f"{plan.name}.conv", x, stride=2, before=self.config.downsample_padding)

    def _resample(self, way: str, x: str) -> str:
        """The image at twice or half its size, without parameters."""
        if way == "up":
            return self.graph.nearest_x2(x)
        return self.graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])

    def _rescale(self, way: str) -> None:
        """Note that the image's size changes."""
        height, width = self.size
        self.size = (2 * height, 2 * width) if way == "up" else (height // 2, width // 2)
