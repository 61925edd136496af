"""The network on arrays: its output, and the product of a vector with its Jacobian. Twin: tf_impl/evaluator.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from core.config import ModelConfig
from torch_impl.sampler import Sampler, to_numpy
from torch_impl.weights import build_unet


class Evaluator:
    """Evaluates a network; see core.likelihood.Evaluator for shapes.

    Args:
        network: the U-Net in evaluation mode, or any module with its signature.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False)
        self.to_device = Sampler(network).to_device

    @torch.inference_mode()
    def __call__(self, x: np.ndarray, t: np.ndarray, condition: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The network's output."""
        return to_numpy(self.network(self.to_device(x), *self.inputs(t, condition)))

    def vector_jacobian(
        self, x: np.ndarray, t: np.ndarray, v: np.ndarray, condition: Mapping[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The network's output, and v^T d output / d x."""
        given = self.to_device(x).requires_grad_()
        output = self.network(given, *self.inputs(t, condition))
        (product,) = torch.autograd.grad(output, given, self.to_device(v))
        return to_numpy(output.detach()), to_numpy(product)

    def inputs(self, t: np.ndarray, condition: Mapping[str, np.ndarray] | None) -> list[torch.Tensor | None]:
        """What the network is given beside x: levels and classes."""
        device = Sampler(self.network).device
        labels = (condition or {}).get("labels")
        return [torch.from_numpy(t).to(device), None if labels is None else torch.from_numpy(labels).to(device)]


def make_evaluator(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Evaluator:
    """The evaluator of a network with given weights, on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Evaluator(build_unet(config, weights, dtype).to(device))
