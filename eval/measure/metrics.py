"""The metrics of a comparison: what is measured on an image, and how two sets of such measurements differ.

Imports NumPy and core only. A metric is a row of `METRICS`; a new one is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.metrics import distances, physics, pixels, profiles
from core.metrics.frechet import frechet_distance_from_features

Array = npt.NDArray[np.float64]
Features = dict[str, Array]

PIXEL_BINS = 1024
BLOCK = 256  # images measured at a time, so that float64 copies stay small


@dataclass(frozen=True)
class Metric:
    """A distance between two sets of features: 0 where they are alike."""

    key: str
    label: str
    meaning: str
    measure: Callable[[Features, Features], float]
    unit: str = "intensity"


def _spectrum_difference(a: Features, b: Features) -> float:
    """Mean over frequencies of |P_a - P_b| / (P_a + P_b), of the mean spectra."""
    first, second = a["power"].mean(axis=0), b["power"].mean(axis=0)
    total = first + second
    return float((np.abs(first - second) / np.where(total > 0, total, 1.0)).mean())


def _scalar(key: str) -> Callable[[Features, Features], float]:
    """Wasserstein distance between the defined values of one number an image; NaN where a set has none."""

    def measure(a: Features, b: Features) -> float:
        first, second = (x[key][np.isfinite(x[key])] for x in (a, b))
        return distances.wasserstein(first, second) if first.size and second.size else float("nan")

    return measure


METRICS = (
    Metric(
        "frechet_thumbnail",
        "Thumbnail Fréchet",
        "Whole images, shrunk to at most 16 by 16 pixels: do their average and the way pixels vary together agree? "
        "No neural network is involved; this is not FID and must not be quoted as one.",
        lambda a, b: frechet_distance_from_features(a["thumbnail"], b["thumbnail"]),
        "intensity²",
    ),
    Metric(
        "power_spectrum",
        "Power spectrum",
        "Is there as much structure at every scale, from broad to fine? 0 is the same, 1 nothing in common.",
        _spectrum_difference,
        "",
    ),
    Metric(
        "radial_profile",
        "Radial profile",
        "Mean brightness at each distance from the centre, as an average difference.",
        lambda a, b: float(np.abs(a["profile"].mean(axis=0) - b["profile"].mean(axis=0)).mean()),
    ),
    Metric(
        "pixel_values",
        "Pixel values",
        "How bright pixels are, wherever they lie.",
        lambda a, b: distances.wasserstein_of_histograms(a["pixels"].mean(0), b["pixels"].mean(0), 1 / PIXEL_BINS),
    ),
    Metric(
        "ring_radius",
        "Ring radius",
        "The distance from the centre at which an image is brightest.",
        _scalar("ring_radius"),
        "length",
    ),
    Metric(
        "ellipticity",
        "Ellipticity",
        "How elongated the light is: 0 for a circle, towards 1 for a line.",
        _scalar("ellipticity"),
        "",
    ),
    Metric("flux", "Total flux", "All the light of an image.", _scalar("flux"), "intensity·px"),
    Metric("peak", "Peak", "The brightest pixel of an image.", _scalar("peak")),
    Metric("sky_noise", "Sky noise", "The graininess of the dark border.", _scalar("sky_noise")),
)
SCALARS = ("ring_radius", "ellipticity", "flux", "peak", "sky_noise")


def measure_features(images: npt.NDArray[Any], pixel_scale: float = 1.0) -> tuple[Features, Features]:
    """Everything that the metrics need, an image at a time.

    Args:
        images: (N, H, W, C) in [0, 1].
        pixel_scale: arcsec per pixel; 1 for pixels.
    Returns:
        Features with N rows each, and the axes `radius` and `frequency` of the curves.
    Raises:
        ValueError: images that `core.metrics.pixels.check_images` refuses; pixel_scale not above 0.
    """
    parts: list[Features] = []
    axes: Features = {}
    for start in range(0, len(images), BLOCK):
        block = np.asarray(images[start : start + BLOCK])
        axes["frequency"], power = profiles.power_spectrum(block, pixel_scale)
        axes["radius"], profile = profiles.radial_profile(block, pixel_scale)
        parts.append(
            {
                "thumbnail": pixels.thumbnails(block).reshape(len(block), -1),
                "power": power,
                "profile": profile,
                "pixels": pixels.pixel_histograms(block, PIXEL_BINS),
                "ring_radius": physics.ring_radius(block, pixel_scale),
                "ellipticity": physics.ellipticity(block),
                "flux": physics.total_flux(block),
                "peak": physics.peak(block),
                "sky_noise": physics.sky_noise(block),
            }
        )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, axes
