"""The Inception network of the Fréchet Inception Distance, NCHW, at evaluation. Twin: tf_impl/inception.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from core.extractors.inception import (
    CLASSES,
    STAGES,
    Conv,
    Layer,
    Pool,
    check_inception,
    convolutions,
    folded,
)
from core.extractors.inception_input import INPUT_SCALE, input_matrices
from core.twin import Published
from torch_impl.weights import read_pickle


class Inception(nn.Module):
    """The network with its BatchNorm folded into the convolutions.

    Args:
        weights: every parameter by its published name (OIHW), BatchNorm's statistics included.
        dtype: float32 or float64.
    Raises:
        ValueError: names or shapes differ from the network's, or a value is not finite.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> None:
        super().__init__()
        check_inception(weights, "weights")
        self.convs = nn.ModuleDict({_key(conv): _conv(conv) for conv in convolutions()})
        # float64, at no cost: in float32 the sum of 2048 terms of either sign depends on the batch size, by 2e-6.
        self.fc = nn.utils.skip_init(nn.Linear, STAGES[-1].width, CLASSES, dtype=torch.float64)
        values = folded(weights)
        layers = {conv.name: self.convs[_key(conv)] for conv in convolutions()} | {"fc": self.fc}
        for name, layer in layers.items():
            layer.weight.data, layer.bias.data = (torch.from_numpy(values[f"{name}.{p}"]) for p in ("weight", "bias"))
        # channels_last is 1.3 times faster on a CPU, and is the native layout of convolutions on a GPU.
        self.convs.to(getattr(torch, dtype)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False).eval()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Evaluate the network.

        Args:
            x: (B, 3, H, W) as prepare() returns it; H and W at least 75 pixels.
        Returns:
            Features (B, d) by tap, see core.extractors.inception.TAPS.
        """
        features = {}
        for stage in STAGES:
            x = self._chain(stage.layers, x)
            features[stage.tap] = x.mean(dim=(2, 3))
        unbiased = F.linear(features[STAGES[-1].tap].double(), self.fc.weight)
        logits = {"logits_unbiased": unbiased, "logits": unbiased + self.fc.bias}
        return {**features, **{tap: value.to(x.dtype) for tap, value in logits.items()}}

    def _chain(self, layers: tuple[Layer, ...], x: torch.Tensor) -> torch.Tensor:
        """Apply layers one after another."""
        for layer in layers:
            if isinstance(layer, Conv):
                x = F.relu(self.convs[_key(layer)](x))
            elif isinstance(layer, Pool):
                x = _pool(layer, x)
            else:
                x = torch.cat([self._chain(branch, x) for branch in layer.branches], dim=1)
        return x


def _key(conv: Conv) -> str:
    """The attribute name of a convolution, which cannot contain dots."""
    return conv.name.replace(".", "_")


def _conv(conv: Conv) -> nn.Conv2d:
    padding = tuple(size // 2 for size in conv.kernel) if conv.padded else 0
    sizes = (conv.in_channels, conv.out_channels, conv.kernel)
    return nn.utils.skip_init(nn.Conv2d, *sizes, stride=conv.stride, padding=padding)


def _pool(pool: Pool, x: torch.Tensor) -> torch.Tensor:
    padding = 1 if pool.stride == 1 else 0
    if pool.kind == "max":
        return F.max_pool2d(x, 3, pool.stride, padding)
    return F.avg_pool2d(x, 3, pool.stride, padding, count_include_pad=False)


def prepare(images: torch.Tensor, resize: str) -> torch.Tensor:
    """Resize images, map them to the network's range, and repeat grey images to three channels.

    Args:
        images: (B, H, W, C) float in [0, 1], C 1 or 3.
        resize: clean or legacy, see core.extractors.inception_input.RESIZES.
    Returns:
        (B, 3, 299, 299) of the same dtype.
    Raises:
        ValueError: another number of channels, or an unknown `resize`.
    """
    rows, columns = (torch.from_numpy(matrix).to(images) for matrix in input_matrices(images.shape[1:], resize))
    x = rows @ images.permute(0, 3, 1, 2) @ columns.T  # (B, C, 299, 299)
    return (x * INPUT_SCALE - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def read_published(path: Path) -> dict[str, np.ndarray]:
    """Every parameter by its published name, from pytorch-fid's file (`pt_inception-2015-12-05-6726825d.pth`).

    Raises:
        ValueError: the file is another one, or damaged.
    """
    # Some copies hold BatchNorm's number of batches, which evaluation does not read.
    tensors = {n: v for n, v in read_pickle(path).items() if not n.endswith(".num_batches_tracked")}
    check_inception(tensors, str(path))
    return tensors


PUBLISHED = Published(
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    read_published,
)
