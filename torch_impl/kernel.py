"""GroupNorm, an added offset before it and SiLU after it as one layer: compiled on a CPU, by PyTorch elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from core.networks.group_norm import GroupNorm, has_kernel

SMALLEST = 1 << 15
"""Number of values from which the compiled layer is the faster one."""


def group_norm(
    norm: nn.GroupNorm,
    x: torch.Tensor,
    activation: Callable[[torch.Tensor], torch.Tensor] | None = None,
    offset: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """activation(norm(x + offset) · (1 + scale) + shift), without what is None.

    Args:
        norm: the layer whose groups, epsilon, weight and bias are used.
        x: images (B, C, H, W).
        activation: an element-wise function.
        offset: (B, C).
        scale, shift: (B, C), both or neither.
    Returns:
        Images (B, C, H, W).
    """
    hooked = norm._forward_hooks or norm._forward_pre_hooks  # a hook wants the layer called
    traced = torch.compiler.is_compiling()  # asked first: a traced batch has no size to compare
    fits = not traced and x.device.type == "cpu" and x.dtype == norm.weight.dtype and x.numel() >= SMALLEST
    if fits and x.is_contiguous(memory_format=torch.channels_last) and not hooked and has_kernel():
        weight, bias = norm.weight[None], norm.bias[None]
        if scale is not None and shift is not None:
            weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
        fused = activation is F.silu
        y: torch.Tensor = _Compiled.apply(x, weight, bias, offset, norm.num_groups, norm.eps, fused)
        return y if fused or activation is None else activation(y)
    y = norm(x if offset is None else x + offset[:, :, None, None])
    if scale is not None and shift is not None:
        y = y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return y if activation is None else activation(y)


class _Compiled(torch.autograd.Function):
    """The compiled layer: images (B, C, H, W), channels last; weight and bias (B or 1, C); offset (B, C) or None."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: Any, bias: Any, offset: Any, groups: int, eps: float, silu: bool
    ) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        inputs = [None if value is None else value.contiguous() for value in (offset, weight, bias)]
        B, C, H, W = x.shape
        dtype = str(x.dtype).removeprefix("torch.")
        ctx.kernel = GroupNorm(dtype, (B, H * W, C), groups, len(weight), eps, silu, torch.get_num_threads())
        statistics = x.new_empty(B, groups), x.new_empty(B, groups), x.new_empty(B, C)
        y = torch.empty_like(x)
        ctx.kernel.forward(*map(_address, (x, *inputs, *statistics, y)))
        ctx.save_for_backward(x, *inputs, *statistics)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        x, offset, weight, *_ = saved = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, each = torch.empty_like(x), [x.new_empty(x.shape[:2]) for _ in range(2)]
        d_offset = None if offset is None else torch.empty_like(offset)
        ctx.kernel.backward(*map(_address, (*saved, dy, dx, *each, d_offset)))
        d_weight, d_bias = (d.sum(0, keepdim=True) if len(weight) == 1 else d for d in each)
        return dx, d_weight, d_bias, d_offset, None, None, None


def _address(x: torch.Tensor | None) -> Any:
    return None if x is None else x.data_ptr()
