"""The options on which a result of `eval fid` depends. Imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DistanceRequest:
    """Two sets of images, and how they are measured."""

    real: str
    """Real images. A run, or pretrained:NAME, stands for the images held out of its training."""
    generated: str
    """Generated images. A run, or pretrained:NAME, stands for images drawn from it, up to 2,000."""
    extractor: Literal["lens", "inception", "pixels"] = "lens"
    """Network that takes the features. The lens extractor is trained on simulated lenses and needs no download;
    inception is FID's, fetched once; pixels compares thumbnails of 16 x 16 and serves images that neither network
    knows."""
    resize: Literal["clean", "legacy"] = "clean"
    """How images are brought to Inception's 299 pixels: clean (antialiased bicubic) or legacy (as in 2017)."""
    weights: str | None = None
    """File with the extractor's weights; by default the committed or fetched ones."""
    train: str | None = None
    """Real images for the floor, none of them in REAL. Without them, and where REAL is no run, the floor is measured
    between two halves of REAL, at half its N."""
    n: int = 0
    """Images to take of each side. 0 takes all images of both. Give it to compare with a distance at that N."""
    fit: Literal["exact", "resize", "crop", "pad"] = "exact"
    """How files of another size are brought to the size of the generated images; exact refuses them."""
    eight_bit: bool = False
    """Round both sides to 256 grey levels, where one side is stored so."""
    seed: int = 0
    """Seed of the choice of real images and of the random draws."""
    framework: Literal["torch", "tensorflow"] | None = None
    """Framework that takes the features and draws from a run; by default the first that is installed."""
