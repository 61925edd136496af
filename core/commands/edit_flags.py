"""The flags of the verb `edit`: one dataclass for each kind of edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import Sampler, Spacing
from core.twin import Device

KINDS = {
    "inpaint": "paint a box or a mask so that it agrees with the rest of the image (RePaint)",
    "img2img": "add noise to images and remove it again (SDEdit)",
    "interpolate": "draw images between pairs of images, through their noise (DDIM inversion)",
    "reconstruct": "map images to their noise and back, to measure the error of the inversion",
    "upscale": "enlarge images, with a network trained with data.low_resolution",
    "translate": "draw several images for each image that the network is conditioned on (data.beside)",
    "solve": "draw images that fit a blurred, small or incomplete measurement (PiGDM, DPS)",
}


@dataclass(frozen=True)
class EditCommand:
    """The flags of every kind of edit."""

    checkpoint: str = ""
    """Run, checkpoint or pipeline folder. The first word after the kind of edit names it too."""
    images: str = "held-out"
    """Images to edit. held-out takes images that the run did not train on; otherwise name a picture, .npy, .npz, folder
    or zip. The second word names them too."""
    out: str = ""
    """Folder for samples.npy, grid.png and manifest.json. Default: CHECKPOINT/edit-KIND-seedSEED."""
    n: int = 8
    """Number of images."""
    first: int = 0
    """Index of the first image. The noise of an image depends on its index and on the seed."""
    seed: int = 0
    """Seed of the noise. Change it for other results from the same images."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of the network: ema is their average over training, raw those of the last step."""
    changed_weights: bool = False
    """Accept weights that were changed after the checkpoint was saved. Default: they are refused as damaged."""
    class_name: str | None = None
    """Class of all images, by name or number, for a class-conditional network. Default: the class of each held-out
    image; for other images the classes in turn."""
    steps: int | None = None
    """Timesteps of the sampling grid. More steps take longer and are more exact. Default: the recipe's for img2img,
    upscale and translate, 100 for the other edits."""
    spacing: Spacing | None = None
    """Where the grid's timesteps lie. Default: as in the recipe."""
    clip: bool | None = None
    """Clip the predicted image to [-1, 1] at every step. Default: as in the recipe. DDIM inversion never clips."""
    batch_size: int | None = None
    """Images processed at a time. It changes time and memory, not the results. Default: as in the recipe."""
    overwrite: bool = False
    """Replace samples that are already in the folder."""
    threads: int = 0
    """Number of CPU threads; 0 leaves it to the framework."""
    device: Device = "auto"
    """Where to compute. auto takes an NVIDIA GPU where there is one, and otherwise the CPU; mps is Apple's GPU."""

    def __post_init__(self) -> None:
        for name, low in (("n", 1), ("first", 0), ("seed", 0), ("threads", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {low}")


@dataclass(frozen=True)
class InpaintCommand(EditCommand):
    """Paint a part of each image so that it agrees with the rest, which stays as it is (RePaint).

    After each step the known pixels are put back, with noise of the noise level reached. So that both parts agree, the
    sampler goes back by --jump timesteps and forward again, --resample times in all. More repeats take longer and agree
    better.

    Examples:
      python -m PACKAGE edit inpaint runs/mine --box 8,8,16,16
      python -m PACKAGE edit inpaint runs/mine photo.png --n 1 --mask hole.png --out painted
      python -m PACKAGE edit inpaint runs/mine --box 0,0,32,16 --resample 1 --seed 1
      python -m PACKAGE edit inpaint runs/mine images.npy --n 4 --box 8,8,16,16 --steps 250 --resample 10
    """

    box: str = ""
    """Box to paint, as TOP,LEFT,HEIGHT,WIDTH in pixels. Give either a box or a mask."""
    mask: str = ""
    """Picture or .npy file of the images' size. Pixels above half of white are painted."""
    jump: int | None = None
    """Timesteps of the grid by which the sampler goes back. Default: 10, or half of the steps where they are 10 or
    fewer."""
    resample: int = 5
    """Number of passes over each part of the grid; 1 never goes back. Raise it where seams show."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """Sampling method: ddpm adds noise at each step, ddim adds none."""
    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"
    """Reverse variance of ddpm: the posterior's (fixed_small) or beta (fixed_large)."""


@dataclass(frozen=True)
class Img2imgCommand(EditCommand):
    """Draw images like the given ones: noise is added part of the way, and removed again (SDEdit).

    --strength is the share of the sampler's steps that are taken. A small share keeps the image; 1 discards it.

    Examples:
      python -m PACKAGE edit img2img runs/mine
      python -m PACKAGE edit img2img runs/mine sketch.png --n 1 --strength 0.7 --out drawn
      python -m PACKAGE edit img2img runs/mine --strength 0.3 --sampler ddpm --steps 250
      python -m PACKAGE edit img2img runs/mine images.npy --n 16 --class-name vort
    """

    strength: float = 0.5
    """Share of the sampler's steps that are taken, in (0, 1]. Raise it to change the image more."""
    sampler: Sampler | None = None
    """Sampling method. Default: the recipe's."""


@dataclass(frozen=True)
class InterpolateCommand(EditCommand):
    """Draw images between the first and the second image, between the third and the fourth, and so on.

    The deterministic flow maps both images of a pair to their noise. Each new image starts from a point on the arc
    between the two noises.

    Examples:
      python -m PACKAGE edit interpolate runs/mine
      python -m PACKAGE edit interpolate runs/mine pair.npy --n 2 --frames 16 --out between
      python -m PACKAGE edit interpolate runs/mine --n 4 --first 10 --steps 250
      python -m PACKAGE edit interpolate runs/mine --spacing quadratic --steps 100
    """

    frames: int = 8
    """Images drawn for each pair, both ends included; at least 2."""


@dataclass(frozen=True)
class ReconstructCommand(EditCommand):
    """Map images to their noise by the deterministic flow, and back. grid.png shows image, noise and result.

    The difference is the error of the finite steps. It falls as --steps grows. The manifest gives it in grey levels.

    Examples:
      python -m PACKAGE edit reconstruct runs/mine
      python -m PACKAGE edit reconstruct runs/mine --steps 500
      python -m PACKAGE edit reconstruct runs/mine images.npy --n 4 --out back
      python -m PACKAGE edit reconstruct runs/mine --spacing quadratic --seed 1
    """


@dataclass(frozen=True)
class UpscaleCommand(EditCommand):
    """Enlarge images, with a network that was trained with data.low_resolution.

    Held-out images are made small first, and the originals are shown beside the results. Images from files must have
    the small size.

    Examples:
      python -m PACKAGE edit upscale runs/upscale
      python -m PACKAGE edit upscale runs/upscale small.npy --n 4 --out larger
      python -m PACKAGE edit upscale runs/upscale --sampler ddpm --steps 250
      python -m PACKAGE edit upscale runs/upscale --seed 1
    """

    sampler: Sampler | None = None
    """Sampling method; the recipe's where not given."""


@dataclass(frozen=True)
class TranslateCommand(EditCommand):
    """Draw several images for each image that the network is conditioned on, such as a blurred one.

    The network must be trained with data.beside or data.low_resolution. Images from files must have the size of the
    images beside, or are fitted as data.beside_fit says. Held-out images are taken with those beside them, and the
    originals are shown, too.

    The folder holds draws.npy (N, draws, H, W, C), draws.png and manifest.json. A row of the picture has the input, the
    original where it is known, and the draws.

    Examples:
      python -m PACKAGE edit translate runs/pairs
      python -m PACKAGE edit translate runs/pairs inputs.npy --n 100 --draws 8 --out restored
      python -m PACKAGE edit translate runs/pairs photo.png --n 1 --draws 16
      python -m PACKAGE edit translate runs/pairs --sampler ddpm --steps 250 --seed 1
    """

    draws: int = 8
    """Images drawn for each input. Draw k of an input depends on the seed and on k, not on their number."""
    sampler: Sampler | None = None
    """Sampling method. Default: the recipe's."""


@dataclass(frozen=True)
class SolveCommand(EditCommand):
    """Draw several images that fit each measurement y = A image + noise, where A and the noise are known.

    The network must be unconditional; it is not trained for the measurement. PiGDM and DPS guide each step of the
    sampler towards the measurement, by the network's gradient, which costs as much as two further evaluations.
    docs/inverse-problems.md says which errors each method has.

    The folder holds draws.npy (N, draws, H, W, C), draws.png and manifest.json. Held-out images are measured first,
    with noise: measured.npy has the measurements, truth.npy the images.

    Examples:
      python -m PACKAGE edit solve runs/mine --operator blur:1.5 --noise 0.02
      python -m PACKAGE edit solve runs/mine small.npy --operator downscale:4 --noise 0.02 --n 4 --draws 16
      python -m PACKAGE edit solve runs/mine seen.npy --operator psf:psf.npy --noise 0.01 --n 1 --out restored
      python -m PACKAGE edit solve runs/mine --operator mask:hole.png --noise 0.02 --method dps --steps 250
    """

    images: str = "held-out"
    """Measurements, of the size that the operator makes of the network's images. held-out measures images that the run
    did not train on; otherwise name a picture, .npy, .npz, folder or zip. The second word names them too."""
    out: str = ""
    """Folder for draws.npy, draws.png and manifest.json. Default: CHECKPOINT/edit-solve-seedSEED."""
    operator: str = ""
    """The measurement A. blur:SIGMA is a Gaussian blur, SIGMA in pixels. downscale:K takes the mean of K x K pixels.
    mask:FILE measures the pixels that are below half of white in a picture or .npy file. psf:FILE is a blur by the
    point spread function in such a file, divided by its sum. Blurred images wrap around their edges."""
    noise: float = 0.0
    """Standard deviation of the measurement's noise, in units of the intensity, whose range is [0, 1]. It must be
    given, above 0."""
    method: Literal["pigdm", "dps"] = "pigdm"
    """pigdm weighs the residual by its variance. dps takes steps of one length, which must fit the problem."""
    draws: int = 4
    """Images drawn for each measurement. Draw k of a measurement depends on the seed and on k, not on their number."""
    step: float = 1.0
    """dps: length of its step, zeta' in the paper. Raise it where the residual is too large."""
    sampler: Sampler | None = None
    """Sampling method: one that evaluates the network once a step, and ddpm or ddim for dps. Default: dpmsolver++ for
    pigdm, ddpm for dps."""
    steps: int | None = None
    """Timesteps of the sampling grid. More steps take longer and are more exact. Default: 50 for pigdm, all timesteps
    of the process for dps."""
    spacing: Spacing | None = None
    """Where the grid's timesteps lie. Default: log_snr for pigdm, where the process has signal at every timestep;
    otherwise as in the recipe."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step <= 0:
            raise ValueError(f"--step {self.step:g}: must be above 0")
        if self.method == "pigdm" and self.step != 1:
            raise ValueError("--step with --method pigdm: must be left out, it is an option of dps")


COMMANDS: dict[str, type[EditCommand]] = {
    "inpaint": InpaintCommand,
    "img2img": Img2imgCommand,
    "interpolate": InterpolateCommand,
    "reconstruct": ReconstructCommand,
    "upscale": UpscaleCommand,
    "translate": TranslateCommand,
    "solve": SolveCommand,
}
