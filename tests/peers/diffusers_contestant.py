"""diffusers' UNet2DModel as a contestant of the benchmark: the same network as ours, with the same initial weights.

Run by the PyTorch interpreter from the checkout: `python -m tests.peers.diffusers_contestant`.
"""

import sys
from typing import Any

import torch

from core.checkpoints.diffusers_config import unet_to_diffusers
from core.config import Recipe
from core.networks.specs import initial_weights
from tests.peers.contestant import run


class Output(torch.nn.Module):
    """A diffusers network that returns the tensor in place of a record with one entry."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The output for x (B, C, H, W) and t (B,)."""
        output: torch.Tensor = self.network(x, t, labels, return_dict=False)[0]
        return output


def make_network(recipe: Recipe) -> torch.nn.Module:
    """UNet2DModel with the recipe's configuration and initial weights.

    Raises:
        ValueError: diffusers is not installed.
    """
    import tests.peers.torchvision_stub  # noqa: F401  diffusers imports torchvision when UNet2DModel is first named

    try:
        from diffusers import UNet2DModel
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--peer diffusers: no module {error.name}: run {sys.executable} -m pip install diffusers"
        ) from error
    network = UNet2DModel.from_config(unet_to_diffusers(recipe.model))
    weights = initial_weights(recipe.model, recipe.training.seed, recipe.training.dtype)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return Output(network)


def versions() -> dict[str, Any]:
    """Name and version."""
    import diffusers

    return {"framework": "diffusers", "version": diffusers.__version__}


if __name__ == "__main__":
    sys.exit(run(make_network, versions, sys.argv[1:]))
