"""denoising-diffusion-pytorch's Unet as a contestant of the benchmark, with as many parameters as ours.

Its network has no equal of ours: two residual blocks a level, linear attention everywhere but at the last level, RMS
norms. So its first width is chosen for nearly equal numbers of parameters, with our multiples and our full attention.
Run by the PyTorch interpreter from the checkout: `python -m tests.peers.lucidrains_contestant`.
"""

import sys
from typing import Any

import torch

from core.config import Recipe
from core.networks.specs import count_parameters
from tests.peers.contestant import run

NEEDS = "denoising-diffusion-pytorch accelerate einops ema-pytorch psutil"
found: dict[str, int] = {}
"""Width and number of parameters of the network that was made last."""


class Unconditional(torch.nn.Module):
    """The network without classes, which it does not have."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: None = None) -> torch.Tensor:
        """The output for x (B, C, H, W) and t (B,)."""
        output: torch.Tensor = self.network(x, t)
        return output


def make_network(recipe: Recipe) -> torch.nn.Module:
    """Unet of the width whose number of parameters is nearest to the recipe's network.

    Raises:
        ValueError: the package is not installed, or the recipe's network is conditional or not in float32.
    """
    import tests.peers.torchvision_stub  # noqa: F401  the package imports torchvision

    peer, model = "--peer denoising-diffusion-pytorch", recipe.model
    if model.conditional or recipe.training.dtype != "float32" or model.architecture != "unet":
        raise ValueError(f"{peer}: takes an unconditional U-Net in float32")
    try:
        from denoising_diffusion_pytorch import Unet
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{peer}: no module {error.name}: run {sys.executable} -m pip install --no-deps --target peers {NEEDS}, "
            "and set PYTHONPATH=peers"
        ) from error

    first = model.block_out_channels[0]
    options = {
        "dim_mults": tuple(width // first for width in model.block_out_channels),
        "channels": model.in_channels,
        "full_attn": tuple("Attn" in name for name in model.down_block_types),
        "dropout": model.dropout,
        "flash_attn": True,
    }

    def count(width: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in Unet(width, **options).parameters())

    wanted = count_parameters(model)
    widths = range(4, 2 * first + 1, 4)
    width = min(widths, key=lambda width: abs(count(width) - wanted))
    found.update(first_width=width, parameters=count(width))
    return Unconditional(Unet(width, **options))


def versions() -> dict[str, Any]:
    """Name, version, width and number of parameters."""
    from denoising_diffusion_pytorch.version import __version__

    return {"framework": "denoising-diffusion-pytorch", "version": __version__, **found}


if __name__ == "__main__":
    sys.exit(run(make_network, versions, sys.argv[1:]))
