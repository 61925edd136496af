"""The flags of the verb `edit`, one dataclass a kind. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import Sampler, Spacing

KINDS = {
    "inpaint": "paint a box or a mask so that it goes with what is round it (RePaint)",
    "img2img": "noise images and denoise them again (SDEdit)",
    "interpolate": "between pairs of images, through their noise (DDIM inversion)",
    "reconstruct": "images to their noise and back: how exact the inversion is",
    "upscale": "small images to large ones, with a network trained with data.low_resolution",
}


@dataclass(frozen=True)
class EditCommand:
    """What every kind of edit is told."""

    checkpoint: str = ""
    """Run, checkpoint or pipeline folder; may also be given as the first word."""
    images: str = "held-out"
    """Images: held-out are those that the run did not train on; or a picture, .npy, .npz, folder or zip; may also be given as
    the second word."""
    out: str = ""
    """Folder to write samples.npy, grid.png and manifest.json to; CHECKPOINT/edit-KIND-SEED where not given."""
    n: int = 8
    """Number of images."""
    first: int = 0
    """Index of the first image; with the seed it also keys the noise."""
    seed: int = 0
    """Seed of the noise."""
    weights: Literal["ema", "raw"] = "ema"
    """Averaged weights, or those of the last step."""
    class_name: str | None = None
    """Class, by name or number, for a class-conditional network; that of held-out images where not given."""
    steps: int | None = None
    """Points of the sampling grid."""
    spacing: Spacing | None = None
    """Where the points lie."""
    clip: bool | None = None
    """Clip the predicted image to [-1, 1] at every step; the inversion never does."""
    batch_size: int | None = None
    """Images at a time; the images do not depend on it."""
    overwrite: bool = False
    """Replace samples that are already in the folder."""
    threads: int = 0
    """CPU threads; 0 for the framework's choice."""

    def __post_init__(self) -> None:
        for name, low in (("n", 1), ("first", 0), ("seed", 0), ("threads", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {low}")


@dataclass(frozen=True)
class InpaintCommand(EditCommand):
    """Paint a part of images so that it goes with what is round it; the rest stays as it is.

    After each step the known pixels are put back, with the noise of the level reached (RePaint). To make the two parts
    agree, the walk goes back by --jump points and forward again, --resample times in all; more takes longer and agrees better.

    Examples:
      python -m PACKAGE edit inpaint runs/mine --box 8,8,16,16
      python -m PACKAGE edit inpaint runs/mine photo.png --n 1 --mask hole.png --out painted
      python -m PACKAGE edit inpaint runs/mine --box 0,0,32,16 --resample 1 --seed 1
      python -m PACKAGE edit inpaint runs/mine images.npy --n 4 --box 8,8,16,16 --steps 250 --resample 10
    """

    box: str = ""
    """Part to paint, as TOP,LEFT,HEIGHT,WIDTH in pixels."""
    mask: str = ""
    """Picture or .npy of the images' size: paint where it is white (above half)."""
    jump: int = 10
    """Points of the grid that the walk goes back by."""
    resample: int = 5
    """Times that each stretch of the grid is passed; 1 for no going back."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """Sampling method."""
    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"
    """Variance of ddpm."""


@dataclass(frozen=True)
class Img2imgCommand(EditCommand):
    """Images like the given ones: noised part of the way, and denoised.

    --strength is the share of the sampler's steps that are taken: little keeps the image, 1 forgets it.

    Examples:
      python -m PACKAGE edit img2img runs/mine
      python -m PACKAGE edit img2img runs/mine sketch.png --n 1 --strength 0.7 --out drawn
      python -m PACKAGE edit img2img runs/mine --strength 0.3 --sampler ddpm --steps 250
      python -m PACKAGE edit img2img runs/mine images.npy --n 16 --class-name vort
    """

    strength: float = 0.5
    """Share of the steps, above 0 and at most 1."""
    sampler: Sampler | None = None
    """Sampling method; the recipe's where not given."""


@dataclass(frozen=True)
class InterpolateCommand(EditCommand):
    """Images between two: the first and second, the third and fourth, and so on.

    Both go to their noise by the deterministic flow, and back from points on the arc between the two.

    Examples:
      python -m PACKAGE edit interpolate runs/mine
      python -m PACKAGE edit interpolate runs/mine pair.npy --n 2 --frames 16 --out between
      python -m PACKAGE edit interpolate runs/mine --n 4 --first 10 --steps 250
      python -m PACKAGE edit interpolate runs/mine --spacing quadratic --steps 100
    """

    frames: int = 8
    """Images of a pair, with both ends."""


@dataclass(frozen=True)
class ReconstructCommand(EditCommand):
    """Images to their noise by the deterministic flow, and back; grid.png shows image, noise and what came back.

    The difference is the error of the steps, which falls with their number; the manifest has it in grey levels.

    Examples:
      python -m PACKAGE edit reconstruct runs/mine
      python -m PACKAGE edit reconstruct runs/mine --steps 500
      python -m PACKAGE edit reconstruct runs/mine images.npy --n 4 --out back
      python -m PACKAGE edit reconstruct runs/mine --spacing quadratic --seed 1
    """


@dataclass(frozen=True)
class UpscaleCommand(EditCommand):
    """Large images of small ones, with a network that was trained with data.low_resolution.

    Held-out images are made small first, and shown beside the result; files must have the small size.

    Examples:
      python -m PACKAGE edit upscale runs/upscale
      python -m PACKAGE edit upscale runs/upscale small.npy --n 4 --out larger
      python -m PACKAGE edit upscale runs/upscale --sampler ddpm --steps 250
      python -m PACKAGE edit upscale runs/upscale --seed 1
    """

    sampler: Sampler | None = None
    """Sampling method; the recipe's where not given."""


COMMANDS: dict[str, type[EditCommand]] = {
    "inpaint": InpaintCommand,
    "img2img": Img2imgCommand,
    "interpolate": InterpolateCommand,
    "reconstruct": ReconstructCommand,
    "upscale": UpscaleCommand,
}
