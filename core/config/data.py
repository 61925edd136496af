"""The table [data]: where images come from and how they are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.limits import check_limits
from core.config.require import require, requirements

Fit = Literal["exact", "resize", "crop", "pad"]
Normalise = Literal["none", "dataset", "image"]


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are prepared; their size and channels are the model's."""

    source: str = "simulate:lensing"
    """Images to train on: simulate:lensing, simulate:model-1, or a path. A path is a folder or zip of images, a .npy or
    .npz file of images, or an IDX file."""
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
        need(self.simulate_count >= 2, "simulate_count", "at least 2")
        for name in self.simulate_classes:
            require(name in ("no", "sphere", "vort"), "data.simulate_classes", name, "among no, sphere, vort")
        need(len(self.simulate_classes) > 0, "simulate_classes", "at least one class")
        need(len(set(self.simulate_classes)) == len(self.simulate_classes), "simulate_classes", "named once each")
        need(self.field_of_view > 0, "field_of_view", "above 0")
        need(len(set(self.condition)) == len(self.condition), "condition", "parameters named once each")
        need(self.low_resolution == 0 or self.low_resolution >= 2, "low_resolution", "0, or at least 2")
        need(0 <= self.held_out < 1, "held_out", "in [0, 1)")
