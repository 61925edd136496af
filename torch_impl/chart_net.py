"""The network of chart coordinates as a plain `nn.Module`. Twin: tf_impl/chart_net.py.

Source: Peebles & Xie 2023, section 3.2 (adaLN-zero).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from core.config import ModelConfig
from core.networks.chart import CHART_NORM_EPS
from torch_impl.layers import TimeEmbedding, VectorEmbedding


def modulate(h: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Normalise each row (B, width) to mean 0 and variance 1, then scale and shift it."""
    return F.layer_norm(h, h.shape[-1:], eps=CHART_NORM_EPS) * (1 + scale) + shift


class ChartBlock(nn.Module):
    """Two linear layers with a residual connection; the condition shifts, scales and gates them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.linear_1 = nn.Linear(width, 2 * width)
        self.linear_2 = nn.Linear(2 * width, width)

    def forward(self, h: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=1)
        return h + gate * self.linear_2(F.silu(self.linear_1(modulate(h, shift, scale))))


class ChartNorm(nn.Module):
    """The last normalisation, shifted and scaled by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, h: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        return modulate(h, shift, scale)


class ChartNet(nn.Module):
    """A multilayer perceptron conditioned on the timestep, and optionally on classes or parameters.

    Args:
        config: the network.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.block_out_channels[0]
        self.config = config
        self.time_embedding = TimeEmbedding(config, width)
        self.class_embedding = nn.Embedding(config.num_class_embeds, width) if config.num_class_embeds else None
        self.vector_embedding = VectorEmbedding(config.vector_channels, width) if config.vector_channels else None
        self.proj_in = nn.Linear(config.in_channels, width)
        self.blocks = nn.ModuleList([ChartBlock(width) for _ in range(config.layers_per_block)])
        self.norm_out = ChartNorm(width)
        self.proj_out = nn.Linear(width, config.out_channels)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        labels: torch.Tensor | None = None,
        vector: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Evaluate the network.

        Args:
            x: (B, D, 1, 1) coordinates plus noise.
            t: (B,) or scalar, 0-based timestep, which may be fractional.
            labels: (B,) int64 classes, for a class-conditional network only.
            vector: (B, P) parameters, standardised as in training, for a network with vector_channels = P only.
            keep: (B,) 1 where the vector counts, 0 where the input is unconditional; None means all 1.
        Returns:
            (B, D, 1, 1), or twice as many channels with a learned variance.
        Raises:
            ValueError: the size is not 1 x 1, or a condition is given or missing contrary to the configuration.
        """
        self.config.check_size(*x.shape[2:])
        self.config.check_condition(labels, vector)
        c = self.time_embedding(torch.as_tensor(t, device=x.device).expand(x.shape[0]))  # (B, width)
        if self.class_embedding is not None:
            c = c + self.class_embedding(labels)
        if self.vector_embedding is not None and vector is not None:
            c = c + self.vector_embedding(vector, vector.new_ones(len(vector)) if keep is None else keep)
        c = F.silu(c)
        h = self.proj_in(x.flatten(1))
        for block in self.blocks:
            h = block(h, c)
        return self.proj_out(self.norm_out(h, c))[:, :, None, None]
