"""Every metric, one row each: what it measures, on which features, and how it is shown.

`eval fid`, `eval compare`, `eval damage` and their pages read this table. A new metric is its function in
core.metrics and one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from core.metrics import distances, physics, pixels, profiles
from core.metrics.frechet import frechet_distance_from_features
from core.metrics.inception_score import inception_score
from core.metrics.kid import kid
from core.metrics.manifold import density_coverage, precision_recall

Array = npt.NDArray[Any]
Features = Mapping[str, Array]
"""Name -> (N, ...), one row an image."""
Group = Literal["images", "features", "inception", "lens", "train"]
"""What must be there: the images alone, any extractor's features, Inception's logits, the lens extractor's outputs by
name, or the distance of each image to its nearest training image."""

PIXEL_BINS = 1024
BLOCK = 256  # images measured at a time, so that float64 copies stay small
ESTIMATE = "{value:.3g} ± {standard_error:.2g}"
SPLITS = 10
"""Of the Inception Score."""
NEAR = 0.01
"""Quantile of the reference's distances to the training set below which an image counts as a copy."""


@dataclass(frozen=True)
class Metric:
    """A number that says how far a set of images lies from a reference."""

    key: str
    """Its entry in result files."""
    label: str
    meaning: str
    measure: Callable[[Features, Features], Any]
    """(features of the set, features of the reference) -> a number, or several by name."""
    unit: str = "intensity"
    """`length` stands for pixels or arcsec, as the result says."""
    group: Group = "images"
    each: Callable[[Array, float], Array] | None = None
    """Where it compares one number an image: (images, arcsec per pixel) -> (N,). A page shows its histogram."""
    shown: str = "{:.3g}"
    """Format of the value."""

    def text(self, value: Any) -> str:
        """A value as it is shown: a number, or several by name."""
        return self.shown.format(**value) if isinstance(value, dict) else self.shown.format(value)


def _spectrum_difference(a: Features, b: Features) -> float:
    """Mean over frequencies of |P_a - P_b| / (P_a + P_b), of the mean spectra."""
    first, second = a["power"].mean(axis=0), b["power"].mean(axis=0)
    total = first + second
    return float((np.abs(first - second) / np.where(total > 0, total, 1.0)).mean())


def _profile_difference(a: Features, b: Features) -> float:
    return float(np.abs(a["profile"].mean(axis=0) - b["profile"].mean(axis=0)).mean())


def _pixel_difference(a: Features, b: Features) -> float:
    return distances.wasserstein_of_histograms(a["pixels"].mean(0), b["pixels"].mean(0), 1 / PIXEL_BINS)


def _frechet(key: str) -> Callable[[Features, Features], float]:
    return lambda a, b: frechet_distance_from_features(a[key], b[key])


def _wasserstein(key: str) -> Callable[[Features, Features], float]:
    """Wasserstein distance between the defined values of one number an image; NaN where a set has none."""

    def measure(a: Features, b: Features) -> float:
        first, second = (x[key][np.isfinite(x[key])] for x in (a, b))
        return distances.wasserstein(first, second) if first.size and second.size else float("nan")

    return measure


def _class_difference(a: Features, b: Features) -> float:
    """Total variation between the mean class probabilities."""
    return float(np.abs(a["lens_classes"].mean(axis=0) - b["lens_classes"].mean(axis=0)).sum() / 2)


def _copies(a: Features, b: Features) -> float:
    """Share of a nearer to the training set than all but 1 % of b, less that 1 %."""
    return max(float((a["nearest"] < np.quantile(b["nearest"], NEAR)).mean()) - NEAR, 0.0)


def _kid(a: Features, b: Features) -> dict[str, float]:
    return kid(b["features"], a["features"])._asdict()


def _precision_recall(a: Features, b: Features) -> dict[str, float]:
    return precision_recall(b["features"], a["features"])._asdict()


def _density_coverage(a: Features, b: Features) -> dict[str, float]:
    return density_coverage(b["features"], a["features"])._asdict()


def _inception_score(a: Features, _: Features) -> dict[str, float]:
    score = inception_score(a["logits_unbiased"], SPLITS)
    return {"mean": score.mean, "std": score.std, "splits": SPLITS}


def _of_features(key: str, meaning: str, measure: Callable[[Features, Features], Any]) -> Metric:
    return Metric(key, key.capitalize(), meaning, measure, "", "features", shown="{:.3f}")


def _of_lens(name: str, label: str, unit: str = "") -> Metric:
    key = f"lens_{name}"
    return Metric(key, f"{label} (W1)", "Of the regressed values.", _wasserstein(key), unit, "lens")


def _of_image(
    key: str, label: str, meaning: str, each: Callable[[Array, float], Array], unit: str = "intensity"
) -> Metric:
    return Metric(key, label, meaning, _wasserstein(key), unit, each=each)


def _unscaled(each: Callable[[Array], Array]) -> Callable[[Array, float], Array]:
    """A number of an image that does not depend on the pixel scale."""
    return lambda images, _: each(images)


METRICS = (
    Metric("kid", "KID", "unbiased, ± standard error", _kid, "", "features", shown=ESTIMATE),
    _of_features("precision", "share of generated images that lie among real ones", _precision_recall),
    _of_features("recall", "share of real images that lie among generated ones", _precision_recall),
    _of_features("density", "real neighbourhoods around a generated image; 1 for real images", _density_coverage),
    _of_features("coverage", "share of real neighbourhoods that hold a generated image", _density_coverage),
    Metric(
        "inception_score",
        "Inception Score",
        f"{SPLITS} splits",
        _inception_score,
        "",
        "inception",
        shown="{mean:.3f} ± {std:.2g}",
    ),
    Metric(
        "lens_frechet",
        "Lens Fréchet",
        "Fréchet distance in the lens extractor's features.",
        _frechet("lens"),
        "",
        "lens",
    ),
    _of_lens("theta_e", "Einstein radius", "arcsec"),
    _of_lens("gamma1", "Shear"),
    _of_lens("source_x", "Source x", "arcsec"),
    _of_lens("source_y", "Source y", "arcsec"),
    _of_lens("source_e1", "Source e1"),
    _of_lens("source_e2", "Source e2"),
    _of_lens("blur", "Blur", "px of 64"),
    _of_lens("noise", "Noise"),
    Metric("lens_classes", "Class probabilities", "Total variation of their means.", _class_difference, "", "lens"),
    Metric("nearest", "Nearest training image", "Share of images nearer than held-out ones are.", _copies, "", "train"),
    Metric(
        "frechet_thumbnail",
        "Thumbnail Fréchet",
        "Do whole images, shrunk to at most 16 by 16 pixels, agree in their mean and covariance? "
        "No neural network is involved; this is not FID and must not be quoted as one.",
        _frechet("thumbnail"),
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
        "The mean brightness at each distance from the centre, as an average difference.",
        _profile_difference,
    ),
    Metric("pixel_values", "Pixel values", "How bright pixels are, wherever they lie.", _pixel_difference),
    _of_image(
        "ring_radius",
        "Ring radius",
        "The distance from the centre at which an image is brightest.",
        physics.ring_radius,
        "length",
    ),
    _of_image(
        "ellipticity",
        "Ellipticity",
        "How elongated the light is: 0 for a circle, towards 1 for a line.",
        _unscaled(physics.ellipticity),
        "",
    ),
    _of_image("flux", "Total flux", "All the light of an image.", _unscaled(physics.total_flux), "intensity·px"),
    _of_image("peak", "Peak", "The brightest pixel of an image.", _unscaled(physics.peak)),
    _of_image("sky_noise", "Sky noise", "The graininess of the dark border.", _unscaled(physics.sky_noise)),
)


def rows(*groups: Group) -> tuple[Metric, ...]:
    """The metrics of some groups, in the table's order."""
    return tuple(metric for metric in METRICS if metric.group in groups)


def measure_all(metrics: Sequence[Metric], features: Features, reference: Features) -> dict[str, Any]:
    """Every metric's value by its key. A function that finds the numbers of several rows runs once.

    Args:
        metrics: rows of METRICS.
        features: of the set, with the arrays that the metrics' group needs.
        reference: the same arrays of the reference.
    """
    found = {measure: measure(features, reference) for measure in dict.fromkeys(m.measure for m in metrics)}
    values = {metric.key: found[metric.measure] for metric in metrics}
    return {key: value[key] if isinstance(value, dict) and key in value else value for key, value in values.items()}


def measure_features(images: npt.NDArray[Any], pixel_scale: float = 1.0) -> tuple[dict[str, Array], dict[str, Array]]:
    """What the metrics of the group `images` need, an image at a time.

    Args:
        images: (N, H, W, C) in [0, 1].
        pixel_scale: arcsec per pixel; 1 for pixels.
    Returns:
        Features with N rows each, and the axes `radius` and `frequency` of the curves.
    Raises:
        ValueError: images that `core.metrics.pixels.check_images` refuses; pixel_scale not above 0.
    """
    parts: list[dict[str, Array]] = []
    axes: dict[str, Array] = {}
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
                **{metric.key: metric.each(block, pixel_scale) for metric in rows("images") if metric.each},
            }
        )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, axes
