"""The table [data]: where images come from and how they are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.limits import check_limits
from core.config.require import require, requirements

Fit = Literal["exact", "resize", "crop", "pad"]
Normalise = Literal["none", "dataset", "image"]
SpaceName = Literal["image", "spd"]
Whiten = Literal["full", "scale"]

DEGRADED = "simulate:degraded"
"""The value of data.beside that makes the images beside out of the images themselves."""


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are prepared; their size and channels are the model's."""

    source: str = "simulate:lensing"
    """Images to train on: simulate:lensing, simulate:model-1, or a path. A path is a folder or zip of images, a .npy or
    .npz file of images, or an IDX file. With space = spd matrices: simulate:spd-lognormal, -mixture, -regression or
    -paper, or a .npy or .npz file of matrices (N, m, m)."""
    space: SpaceName = "image"
    """What the data are: image, or spd for symmetric positive definite matrices such as covariances. spd needs
    model.architecture = chart, and model.in_channels = m (m + 1) / 2 for matrices of m x m."""
    whiten: Whiten = "full"
    """Of matrices: full divides their coordinates by the root of the training matrices' covariance. scale divides by
    one number; take it for few matrices, or where full finds coordinates that do not vary."""
    simulate_count: int = 10_000
    """Number of images to simulate; read where source is simulate:PRESET."""
    simulate_seed: int = 0
    """Seed of the simulator. Change it for other lenses of the same kind."""
    simulate_classes: tuple[str, ...] = ("no", "sphere", "vort")
    """Substructure classes to simulate, in equal shares: no substructure, subhaloes (sphere) or a vortex (vort)."""
    field_of_view: float = 7.5
    """Side of a simulated image in arcsec; the shorter side where height and width differ."""
    fit: Fit = "exact"
    """What happens to an image of another size. exact refuses it. resize is antialiased and bicubic, crop keeps the
    centre, pad adds zeros."""
    normalise: Normalise = "none"
    """How pixel values come to lie in [0, 1]. none divides integers by their type's maximum and refuses other values
    outside. dataset stretches by the minimum and maximum of all images, image by those of each image."""
    held_out: float = 0.1
    """Share of images that are kept from training, in [0, 1). The hash of an image's pixels decides, so equal images
    stay on one side."""
    condition: tuple[str, ...] = ()
    """Parameters of the images that the network is conditioned on, such as theta_e. model.vector_channels must be their
    number."""
    low_resolution: int = 0
    """Train super-resolution: condition on the image made smaller by this factor. 0 trains none."""
    beside: str = ""
    """Images that the network is conditioned on, one beside each image of source. A folder or zip pairs by file name, a
    file of images by order. simulate:degraded blurs each image, averages it over larger pixels and adds noise. Empty
    for none. model.condition_channels must be their number of channels."""
    beside_size: tuple[int, int] = (16, 16)
    """Height and width in pixels of the images beside. They are enlarged to model.sample_size where the network takes
    them."""
    beside_fit: Fit = "exact"
    """What happens to an image beside of another size; the values are those of fit. normalise holds for both sets, each
    with its own extremes. Where it is none, real values may lie in [-1, 2], since noise is not cut off."""
    beside_psf: float = 0.2
    """Standard deviation in arcsec of the Gaussian blur of simulate:degraded; field_of_view sets the scale."""
    beside_noise: float = 0.02
    """Standard deviation of the Gaussian noise of simulate:degraded, where pixel values lie in [0, 1]."""
    augment: bool = False
    """Turn and flip training images at random: the eight symmetries of the square, or four where height and width
    differ. Use it only where the data look the same from every side."""
    skip_broken: bool = False
    """Leave out images that cannot be read, up to half of them. The checkpoint's data.json lists them. By default they
    are an error that names them all."""
    cache: str = "data/cache"
    """Folder for prepared data sets, which are used again by later runs."""

    def __post_init__(self) -> None:
        check_limits(self, "data")
        need = requirements(self, "data")
        need(self.source != "", "source", "simulate:PRESET or a path")
        need(self.space in ("image", "spd"), "space", "image or spd")
        need(self.whiten in ("full", "scale"), "whiten", "full or scale")
        need(self.simulate_count >= 2, "simulate_count", "at least 2")
        for name in self.simulate_classes:
            require(name in ("no", "sphere", "vort"), "data.simulate_classes", name, "among no, sphere, vort")
        need(len(self.simulate_classes) > 0, "simulate_classes", "at least one class")
        need(len(set(self.simulate_classes)) == len(self.simulate_classes), "simulate_classes", "named once each")
        need(self.field_of_view > 0, "field_of_view", "above 0")
        need(len(set(self.condition)) == len(self.condition), "condition", "parameters named once each")
        need(self.low_resolution == 0 or self.low_resolution >= 2, "low_resolution", "0, or at least 2")
        need(0 <= self.held_out < 1, "held_out", "in [0, 1)")
        need(not (self.beside and self.low_resolution), "low_resolution", "0 with data.beside")
        need(min(self.beside_size) >= 1, "beside_size", "at least 1 pixel high and wide")
        narrow = 0 < self.beside_psf < self.field_of_view or self.beside != DEGRADED
        need(narrow, "beside_psf", f"above 0 and below data.field_of_view {self.field_of_view}")
        need(self.beside_noise >= 0, "beside_noise", "at least 0")
        torn = "false with data.beside, where pairs would be torn"
        need(not self.skip_broken or self.beside in ("", DEGRADED), "skip_broken", torn)

    @property
    def beside_normalise(self) -> Normalise:
        """The key normalise for the images beside; degraded images are made of normalised ones."""
        return "none" if self.beside == DEGRADED else self.normalise
