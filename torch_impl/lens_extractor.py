"""The feature extractor for images of strong lenses, NCHW inside. Twin: tf_impl/lens_extractor.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from core.extractors.lens import CONVOLUTIONS, FEATURES, HEADS, check_lens_weights, prepare
from torch_impl.device import pick_device


class LensExtractor(nn.Module):
    """The network of core.extractors.lens."""

    def __init__(self) -> None:
        super().__init__()
        for c in CONVOLUTIONS:
            layer = nn.Conv2d(c.in_channels, c.out_channels, c.size, c.stride, c.padding)
            self.add_module(c.name, layer)
        for name, width in HEADS.items():
            self.add_module(f"to_{name}", nn.Linear(FEATURES, width))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Evaluate the network.

        Args:
            x: (B, 3, 64, 64), as core.extractors.lens.prepare() returns it.
        Returns:
            `features` (B, 128), `parameters` (B, 8) and `logits` (B, 3).
        """
        for c in CONVOLUTIONS:
            x = F.silu(self.get_submodule(c.name)(x))
        features = x[:, :, 0, 0]  # the last map is one pixel
        return {"features": features, **{name: self.get_submodule(f"to_{name}")(features) for name in HEADS}}


def build_lens_network(weights: Mapping[str, np.ndarray], dtype: str = "float32") -> LensExtractor:
    """The network with given weights.

    Args:
        weights: every parameter of core.extractors.lens.PARAM_SPECS.
        dtype: float32 or float64.
    Raises:
        ValueError: names or shapes differ from the network's, or a value is not finite.
    """
    check_lens_weights(weights, "weights")
    network = LensExtractor().to(getattr(torch, dtype))
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))
    return network.eval()


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
    place = pick_device(device, dtype)
    network = build_lens_network(weights, dtype).to(place)

    @torch.inference_mode()
    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        parts = []
        for x in prepare(images, dtype):
            parts.append(network(torch.from_numpy(x).to(place).permute(0, 3, 1, 2).contiguous()))
        return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}

    return extract
