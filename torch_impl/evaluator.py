"""The network on arrays: its output, and the product of a vector with its Jacobian. Twin: tf_impl/evaluator.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from core.config import ModelConfig
from core.inference.conditioning import Condition
from torch_impl.sampler import Sampler, to_numpy
from torch_impl.weights import build_unet


class Evaluator:
    """Evaluates a network; see core.inference.likelihood.Evaluator for shapes.

    Args:
        network: the U-Net in evaluation mode, or any module with its signature.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False)
        self.sampler = Sampler(network)

    @torch.inference_mode()
    def __call__(self, x: np.ndarray, t: np.ndarray, condition: Condition | None = None) -> np.ndarray:
        """The network's output."""
        given = self.sampler.tensors(condition)
        return to_numpy(self.network(self.sampler.to_device(x), self.sampler.to_device(t), **given))

    def vector_jacobian(
        self, x: np.ndarray, t: np.ndarray, v: np.ndarray, condition: Condition | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The network's output, and v^T d output / d x."""
        given, point = self.sampler.tensors(condition), self.sampler.to_device(x).requires_grad_()
        output = self.network(point, self.sampler.to_device(t), **given)
        (product,) = torch.autograd.grad(output, point, self.sampler.to_device(v))
        return to_numpy(output.detach()), to_numpy(product)


def make_evaluator(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Evaluator:
    """The evaluator of a network with given weights, on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Evaluator(build_unet(config, weights, dtype).to(device))
