"""The table [data]: where images come from and how they are prepared. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.require import require

Fit = Literal["exact", "resize", "crop", "pad"]
Normalise = Literal["none", "dataset", "image"]


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are prepared; their size and channels are the model's."""

    source: str = "simulate:lensing"
    """simulate:lensing, simulate:model-1, or a path: a folder or zip of .npy files or pictures, a .npy/.npz file, an
    IDX file (plain or .gz)."""
    simulate_count: int = 10_000
    """Number of images to simulate."""
    simulate_seed: int = 0
    """Seed of the simulator."""
    simulate_classes: tuple[str, ...] = ("no", "sphere", "vort")
    """Substructure classes to simulate, in equal shares."""
    field_of_view: float = 7.5
    """Side of a simulated image in arcsec (the shorter side where height and width differ)."""
    fit: Fit = "exact"
    """What to do with an image of another size: exact refuses it; resize (antialiased bicubic), crop (centre), pad
    (with zeros)."""
    normalise: Normalise = "none"
    """none: values must lie in [0, 1] (integers are divided by their type's maximum); dataset: min-max over all images; image: min-max
    of each image."""
    held_out: float = 0.1
    """Share of images kept out of training, chosen by the hash of their pixels."""
    condition: tuple[str, ...] = ()
    """Parameters of the images that a network of as many model.vector_channels is given, such as theta_e."""
    low_resolution: int = 0
    """Factor by which an image is made smaller and put beside itself as a condition, for super-resolution; 0 for none."""
    augment: bool = False
    """Random rotations by 90 degrees and flips (the eight symmetries of the square; four where H != W)."""
    cache: str = "data/cache"
    """Folder of prepared data sets."""

    def __post_init__(self) -> None:
        require(self.source != "", "data.source", self.source, "simulate:PRESET or a path")
        require(self.simulate_count >= 2, "data.simulate_count", self.simulate_count, "at least 2")
        require(0 <= self.simulate_seed < 2**63, "data.simulate_seed", self.simulate_seed, "in [0, 2^63)")
        for name in self.simulate_classes:
            require(name in ("no", "sphere", "vort"), "data.simulate_classes", name, "among no, sphere, vort")
        require(len(self.simulate_classes) > 0, "data.simulate_classes", self.simulate_classes, "at least one class")
        require(len(set(self.simulate_classes)) == len(self.simulate_classes), "data.simulate_classes", self.simulate_classes, "classes named once each")  # fmt: skip
        require(self.field_of_view > 0, "data.field_of_view", self.field_of_view, "above 0")
        require(len(set(self.condition)) == len(self.condition), "data.condition", self.condition, "parameters named once each")  # fmt: skip
        require(self.low_resolution == 0 or self.low_resolution >= 2, "data.low_resolution", self.low_resolution, "0, or at least 2")  # fmt: skip
        require(0 <= self.held_out < 1, "data.held_out", self.held_out, "in [0, 1)")
