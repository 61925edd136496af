"""The DDPM U-Net as a plain `nn.Module`, NCHW. Twin: tf_impl/unet.py.

Its state_dict has the names of diffusers' `UNet2DModel`.
Source: Ho et al. 2020; Dhariwal & Nichol 2021 (scale_shift, resampling residual blocks).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.config import ModelConfig
from core.networks.unet import unet_plan
from torch_impl.kernel import group_norm
from torch_impl.layers import Block, TimeEmbedding, VectorEmbedding


class UNet(nn.Module):
    """U-Net conditioned on the timestep, and optionally on classes, parameters or an image.

    Args:
        config: the network, in diffusers' keys.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        plan = unet_plan(config)
        first, time = config.block_out_channels[0], plan.time_channels
        self.config = config
        self.gradient_checkpointing = False
        self.conv_in = nn.Conv2d(config.in_channels * config.patch_size**2, first, 3, padding=1)
        self.time_embedding = TimeEmbedding(config, time)
        self.class_embedding = nn.Embedding(config.num_class_embeds, time) if config.num_class_embeds else None
        self.vector_embedding = VectorEmbedding(config.vector_channels, time) if config.vector_channels else None
        self.down_blocks = nn.ModuleList([Block(p, config, time) for p in plan.down])
        self.mid_block = Block(plan.mid, config, time) if plan.mid else None
        self.up_blocks = nn.ModuleList([Block(p, config, time) for p in plan.up])
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, first, eps=config.norm_eps)
        self.conv_out = nn.Conv2d(first, config.out_channels * config.patch_size**2, 3, padding=1)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        labels: torch.Tensor | None = None,
        vector: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
        image: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Evaluate the network.

        Args:
            x: (B, C, H, W), in [-1, 1] plus noise.
            t: (B,) or scalar, 0-based timestep, which may be fractional.
            labels: (B,) int64 classes, for a class-conditional network only.
            vector: (B, P) parameters, standardised as in training, for a network with vector_channels = P only.
            keep: (B,) 1 where the vector counts, 0 where the input is unconditional; None means all 1.
            image: (B, C', H, W) in [-1, 1], concatenated to x, for a network with condition_channels = C' only.
        Returns:
            (B, C, H, W).
        Raises:
            ValueError: the size does not fit, or a condition is given or missing contrary to the configuration.
        """
        self.config.check_size(*x.shape[2:])
        self.config.check_condition(labels, vector, image)
        time = self.time_embedding(torch.as_tensor(t, device=x.device).expand(x.shape[0]))  # (B, time_channels)
        if self.class_embedding is not None:
            time = time + self.class_embedding(labels)
        if self.vector_embedding is not None and vector is not None:
            time = time + self.vector_embedding(vector, vector.new_ones(len(vector)) if keep is None else keep)
        if image is not None:
            x = torch.cat([x, image], dim=1)
        if self.config.center_input_sample:
            x = 2 * x - 1
        x = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size))
        skips = [x]
        for block in cast("list[Block]", self.down_blocks):
            for i, resnet in enumerate(block.resnets):
                x = self._run(resnet, x, time)
                x = self._run(block.attentions[i], x) if block.attentions else x
                skips.append(x)
            if block.downsamplers:
                x = block.resize(x, time)
                skips.append(x)
        if self.mid_block is not None:
            x = self._run(self.mid_block.resnets[0], x, time)
            x = self._run(self.mid_block.attentions[0], x) if self.mid_block.attentions else x
            x = self._run(self.mid_block.resnets[1], x, time)
        for block in cast("list[Block]", self.up_blocks):
            for i, resnet in enumerate(block.resnets):
                x = self._run(resnet, torch.cat([x, skips.pop()], dim=1), time)
                x = self._run(block.attentions[i], x) if block.attentions else x
            x = block.resize(x, time)
        x = self.conv_out(group_norm(self.conv_norm_out, x, F.silu))
        return F.pixel_shuffle(x, self.config.patch_size)

    def _run(self, layer: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        """A layer's output. With gradient checkpointing the backward pass computes it again."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)
