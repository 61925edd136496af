"""A distance between real and generated images beside its interval and its floor.

The floor is the distance of real images from other real images at the same N.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.extractors.lens import PARAMETERS
from core.metrics.frechet import frechet_distance, frechet_distance_from_features
from core.metrics.intervals import frechet_floor, frechet_infinity, frechet_interval
from core.metrics.moments import moments_of
from core.random import generator
from eval.measure.image_sets import Images, ImageSet, Moments
from eval.measure.metrics import Metric, measure_all, rows

Features = npt.NDArray[Any]
Taps = Mapping[str, Features]

PROTOCOL_N = 2000
LEAST = 20
"""Fewest images a side: the interval leaves out ten groups of two."""
FLOOR_DRAWS = 5
LINE_SIZES = 4
"""The extrapolation in 1/N starts at an N of LINE_SIZES times the number of features and ends at twice that or more."""


@dataclass(frozen=True)
class Cut:
    """The images that are compared: N real, N generated, and real ones besides for the floor."""

    n: int
    real: Images
    generated: Images
    spare: Images
    """(n or more, H, W, C) real images, none of them among `real`."""


def cut(real: ImageSet, generated: ImageSet, n: int, seed: int) -> Cut:
    """Cut two sets of images to the same N.

    Args:
        real: its `others`, or else its images beyond N, measure the floor.
        generated: its first N images are taken, which are samples 0 to N - 1 of a seed.
        n: N; 0 for the largest that all three parts have.
        seed: of the random choice of real images.
    Raises:
        ValueError: n is above what there is or below LEAST, or a side holds saved statistics.
    """
    images, drawn, spare = real.all_images(), generated.all_images(), real.others
    order = generator(seed, "rows", 0).permutation(len(images))
    most = min(len(drawn), *((len(images) // 2,) if spare is None else (len(images), len(spare))))
    size = n or most
    if not LEAST <= size <= most:
        more = f", {len(spare):,} more" if spare is not None else ""
        raise ValueError(
            f"--n {size}: must be from {LEAST} to {most} with {len(images):,} real{more} and {len(drawn):,} generated "
            "images: N real, N generated, and N real ones again for the floor"
        )
    if spare is None:
        return Cut(size, images[order[:size]], drawn[:size], images[order[size : 2 * size]])
    rest = generator(seed, "rows", 1).permutation(len(spare))[: 2 * size]
    return Cut(size, images[order[:size]], drawn[:size], spare[np.sort(rest)])


def _floor(real: Features, spare: Features, seed: int) -> dict[str, Any]:
    """Distances of real rows from other real rows, as many on each side as `real` has."""
    n = len(real)
    if len(spare) == n:
        values = frechet_floor(np.concatenate([real, spare]), n, FLOOR_DRAWS, seed).values
    else:
        draws = [generator(seed, "rows", 2 + i).permutation(len(spare))[:n] for i in range(FLOOR_DRAWS)]
        values = np.array([frechet_distance_from_features(real, spare[order]) for order in draws])
    return {"mean": float(values.mean()), "std": float(values.std(ddof=1)), "values": values.tolist(), "n": n}


def measure(real: Features, generated: Features, spare: Features, seed: int) -> dict[str, Any]:
    """Every distance between two sets of features, N rows each.

    Args:
        real, generated: (n, d).
        spare: (n or more, d) of other real images, for the floor.
        seed: of the random draws.
    Returns:
        Plain JSON values; `infinity` is null where N is too small for a straight line in 1/N.
    """
    n, dim = real.shape
    interval = frechet_interval(real, generated, seed=seed)
    smallest, infinity = LINE_SIZES * dim, None
    if n >= 2 * smallest:
        limit = frechet_infinity(real, generated, smallest, cut_both=True, seed=seed)
        infinity = {"value": limit.value, "standard_error": limit.standard_error}
    frechet = {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": 0.95,
        "standard_error": interval.standard_error,
        "method": "delete-a-group jackknife of both sets, 10 groups",
    }
    others = measure_all(rows("features"), {"features": generated}, {"features": real})
    return {"frechet": frechet, "floor": _floor(real, spare, seed), "infinity": infinity, **others}


def measure_statistics(real: Moments, generated: Moments) -> dict[str, Any]:
    """The Fréchet distance alone, from the mean and covariance of each side.

    Raises:
        ValueError: the sides have another number of features.
    """
    return {"frechet": {"value": frechet_distance(*real, *generated)}}


def moments(features: Features) -> Moments:
    """Mean and covariance of (n, d) features."""
    found = moments_of([features])
    return found.mean, found.covariance


def lens_parameter_metrics() -> dict[str, Metric]:
    """Name of each of the lens extractor's parameters -> its metric."""
    known = {metric.key: metric for metric in rows("lens")}
    return {name: known[f"lens_{name}"] for name in PARAMETERS}


def lens_numbers(real: Taps, generated: Taps, spare: Taps, labels: Features | None) -> dict[str, Any]:
    """What the lens extractor sees in the images: distances of its parameters, and classes.

    Args:
        real, generated, spare: taps `parameters` and `logits`.
        labels: (n,) classes on which the generated images were conditioned, or None.
    Returns:
        Wasserstein distance of each parameter with its floor, in the parameter's unit (lengths in sides of the field);
        shares of the classes; the share of generated images whose class is found to be that of their label.
    """
    n = len(real["parameters"])
    first, second, third = (
        {f"lens_{name}": taps["parameters"][:n, i] for i, name in enumerate(PARAMETERS)}
        for taps in (real, generated, spare)
    )
    metrics = lens_parameter_metrics()
    values, floors = (measure_all(tuple(metrics.values()), side, first) for side in (second, third))
    distances = {name: {"value": values[m.key], "floor": floors[m.key]} for name, m in metrics.items()}
    classes = {name: np.argmax(taps["logits"], axis=1) for name, taps in (("real", real), ("generated", generated))}
    width = real["logits"].shape[1]
    shares = {name: (np.bincount(found, minlength=width) / len(found)).tolist() for name, found in classes.items()}
    agreement = None if labels is None else float((classes["generated"] == labels[:n]).mean())
    return {"parameters": distances, "class_shares": shares, "class_agreement": agreement}


def warnings(real: ImageSet, generated: ImageSet, n: int, dim: int, extractor: str) -> list[str]:
    """What a reader must know before quoting the number."""
    found = []
    if extractor == "pixels":
        found.append(
            "The features are the pixels of thumbnails of at most 16 x 16. No network judges them, and finer detail is "
            "not seen. This is not FID and must not be quoted as one."
        )
    if real.statistics or generated.statistics:
        found.append(
            "Saved statistics hold no features: there is no floor, no interval, no KID, no precision and no recall. "
            "How their images were prepared cannot be checked."
        )
    else:
        if n < dim:
            found.append(
                f"N = {n:,} is below the {dim:,} features: the covariances are singular, and most of the distance is "
                "the bias of a small N."
            )
        if n < PROTOCOL_N:
            found.append(
                f"N = {n:,} is below the protocol's {PROTOCOL_N:,} (10,000 for a figure to publish): read the distance "
                "against its floor, never against a distance at another N."
            )
    if not real.about.get("split"):
        found.append(
            "Nothing says that the real images were held out of training: a network that copies them would score well. "
            "Give the run as REAL, or --train."
        )
    return found
