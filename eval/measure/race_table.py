"""Who races, and on what: the contestants, and the sets of images with their recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eval.twins.interpreters import Framework

SetName = Literal["lens-32", "lens-64", "fashion-mnist-32"]
Feature = Literal["lens", "pixels", "classifier"]
ContestantName = Literal[
    "torch",
    "tensorflow",
    "diffusers",
    "diffusers-matched",
    "denoising-diffusion-pytorch",
    "denoising-diffusion-pytorch-matched",
    "smalldiffusion",
    "smalldiffusion-matched",
]


@dataclass(frozen=True)
class RaceSet:
    """A set of images."""

    config: str
    """Recipe of our contestants, which names the images and their split."""
    features: tuple[Feature, ...]
    eight_bit: bool
    """Round drawn images to 256 grey levels, as the real ones are."""


SETS: dict[SetName, RaceSet] = {
    "lens-32": RaceSet("configs/lens-32-fast.toml", ("lens",), False),
    "lens-64": RaceSet("configs/lens-64-fast.toml", ("lens",), False),
    "fashion-mnist-32": RaceSet("configs/results-fashion-mnist.toml", ("pixels", "classifier"), True),
}


@dataclass(frozen=True)
class Contestant:
    """Who takes part."""

    title: str
    framework: Framework | None = None
    """Framework of one of ours; None for a peer."""
    script: str = ""
    """A peer's script, run as a module in the environment of the race."""
    matched: bool = False
    """Whether a peer has our size, learning rate, warm-up, decay and batch size."""


CONTESTANTS: dict[ContestantName, Contestant] = {
    "torch": Contestant("Diptych, PyTorch", "torch"),
    "tensorflow": Contestant("Diptych, TensorFlow", "tensorflow"),
    "diffusers": Contestant("diffusers, its example", script="tests.peers.race_diffusers"),
    "diffusers-matched": Contestant("diffusers, matched", script="tests.peers.race_diffusers", matched=True),
    "denoising-diffusion-pytorch": Contestant(
        "denoising-diffusion-pytorch, its defaults", script="tests.peers.race_lucidrains"
    ),
    "denoising-diffusion-pytorch-matched": Contestant(
        "denoising-diffusion-pytorch, matched", script="tests.peers.race_lucidrains", matched=True
    ),
    "smalldiffusion": Contestant("smalldiffusion, its example", script="tests.peers.race_smalldiffusion"),
    "smalldiffusion-matched": Contestant(
        "smalldiffusion, matched", script="tests.peers.race_smalldiffusion", matched=True
    ),
}
