"""A distance between real and generated images beside its interval and its floor.

The distance takes every image of both sides, or the N that the caller names. The floor is the distance of real images
from other real images. Where these are too few for the distance's own N, the floor has a smaller N and says so, and
the distance is measured at that N too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.extractors.lens import PARAMETERS
from core.metrics.frechet import frechet_distance, frechet_distance_from_features
from core.metrics.intervals import frechet_floor, frechet_infinity, frechet_interval
from core.metrics.moments import moments_of
from core.random import generator
from eval.measure.image_sets import Images, ImageSet
from eval.measure.metrics import Metric, measure_all, rows
from eval.measure.saved import Features, Moments

Taps = Mapping[str, Features]

PROTOCOL_N = 2000
LEAST = 20
"""Fewest images a side: the interval leaves out ten groups of two."""
FLOOR_DRAWS = 5
LINE_SIZES = 4
"""The extrapolation in 1/N starts at an N of LINE_SIZES times the number of features and ends at twice that or more."""


@dataclass(frozen=True)
class Cut:
    """The images, or the features of images, that are compared, and more real ones for the floor."""

    real: Images
    generated: Images
    spare: Images
    """Real images, none of them among `real`. Where there are none, the floor is measured by halves of `real`."""


def cut(real: ImageSet, generated: ImageSet, n: int, seed: int) -> Cut:
    """Take all images of two sets, or N of each.

    Args:
        real: its `others`, or else its images beyond N, serve the floor.
        generated: its first N images are taken, which are samples 0 to N - 1 of a seed.
        n: N; 0 for every image of both.
        seed: of the random choice of real images.
    Raises:
        ValueError: n is above what there is, fewer images than LEAST, or a side holds saved statistics.
    """
    images, drawn = real.rows(), generated.rows()
    most, there = min(len(images), len(drawn)), f"{len(images):,} real and {len(drawn):,} generated images"
    if most < LEAST:
        raise ValueError(f"{there}: must be at least {LEAST} on each side")
    if n and not LEAST <= n <= most:
        raise ValueError(f"--n {n}: must be from {LEAST} to {most} with {there}")
    of_real, of_generated = n or len(images), n or len(drawn)
    order = generator(seed, "rows", 0).permutation(len(images))
    if real.others is None:
        spare = images[order[of_real : of_real + of_generated]]
    else:
        rest = generator(seed, "rows", 1).permutation(len(real.others))[: 2 * of_generated]
        spare = real.others[np.sort(rest)]
    return Cut(images[order[:of_real]], drawn[:of_generated], spare)


def _floor_sizes(real: int, spare: int, generated: int) -> tuple[int, int]:
    """Rows on the two sides of the floor: as many as on the distance's, where there are enough real ones."""
    second = min(generated, max(spare, (real + spare) // 2))
    return min(real, real + spare - second), second


def _floor(real: Features, generated: Features, spare: Features, seed: int) -> dict[str, Any]:
    """Distances of real rows from other real rows; arguments as in `measure`."""
    n, other = _floor_sizes(len(real), len(spare), len(generated))
    if len(spare) > other:  # enough for other rows in every draw
        orders = [generator(seed, "rows", 2 + i).permutation(len(spare))[:other] for i in range(FLOOR_DRAWS)]
        values = np.array([frechet_distance_from_features(real, spare[order]) for order in orders])
    else:
        values = frechet_floor(np.concatenate([real, spare]), n, FLOOR_DRAWS, seed, other).values
    spread = {"mean": float(values.mean()), "std": float(values.std(ddof=1)), "values": values.tolist()}
    return {**spread, "n": {"real": n, "other": other}}


def _at(n: int, m: int, real: Features, generated: Features, seed: int) -> float:
    """Mean distance of n real rows from m generated ones, over as many draws as the floor has."""

    def some(rows_of: Features, count: int, draw: int) -> Features:
        return rows_of[generator(seed, "rows", draw).permutation(len(rows_of))[:count]]

    pairs = ((some(real, n, i), some(generated, m, FLOOR_DRAWS + i)) for i in range(FLOOR_DRAWS))
    return float(np.mean([frechet_distance_from_features(*pair) for pair in pairs]))


def measure(real: Features, generated: Features, spare: Features, seed: int) -> dict[str, Any]:
    """Every distance between two sets of features.

    Args:
        real, generated: (n, d) and (m, d).
        spare: (k, d) of other real images, for the floor; k = 0 measures it by halves of `real`.
        seed: of the random draws.
    Returns:
        Plain JSON values; `infinity` is null where N is too small for a straight line in 1/N. `at_floor_n` is the
        distance at the floor's N, which is the distance itself where the floor has its N.
    """
    n, dim = min(len(real), len(generated)), real.shape[1]
    interval = frechet_interval(real, generated, seed=seed)
    smallest, infinity = LINE_SIZES * dim, None
    if n >= 2 * smallest:
        limit = frechet_infinity(real, generated, smallest, cut_both=True, seed=seed)
        infinity = {"value": limit.value, "standard_error": limit.standard_error}
    floor = _floor(real, generated, spare, seed)
    sizes = floor["n"]["real"], floor["n"]["other"]
    same = sizes == (len(real), len(generated))
    frechet = {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": 0.95,
        "standard_error": interval.standard_error,
        "method": "delete-a-group jackknife of both sets, 10 groups",
        "at_floor_n": interval.value if same else _at(*sizes, real, generated, seed),
    }
    others = measure_all(rows("features"), {"features": generated}, {"features": real})
    counts = {"real": len(real), "generated": len(generated)}
    return {"n": counts, "frechet": frechet, "floor": floor, "infinity": infinity, **others}


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
        real, generated, spare: taps `parameters` and `logits`; without rows in spare the floor is of halves of real.
        labels: (m or more,) classes on which the generated images were conditioned, or None.
    Returns:
        Wasserstein distance of each parameter with its floor, in the parameter's unit (lengths in sides of the field);
        shares of the classes; the share of generated images whose class is found to be that of their label.
    """
    pool = np.concatenate([real["parameters"], spare["parameters"]])
    n, m = len(real["parameters"]), len(generated["parameters"])
    first, second = _floor_sizes(n, len(spare["parameters"]), m)
    reference, drawn, left, right = (
        {f"lens_{name}": rows_of[:, i] for i, name in enumerate(PARAMETERS)}
        for rows_of in (pool[:n], generated["parameters"], pool[:first], pool[first : first + second])
    )
    metrics = lens_parameter_metrics()
    values = measure_all(tuple(metrics.values()), drawn, reference)
    floors = measure_all(tuple(metrics.values()), right, left)
    distances = {name: {"value": values[m.key], "floor": floors[m.key]} for name, m in metrics.items()}
    classes = {name: np.argmax(taps["logits"], axis=1) for name, taps in (("real", real), ("generated", generated))}
    width = real["logits"].shape[1]
    shares = {name: (np.bincount(found, minlength=width) / len(found)).tolist() for name, found in classes.items()}
    agreement = None if labels is None else float((classes["generated"] == labels[:m]).mean())
    return {"parameters": distances, "class_shares": shares, "class_agreement": agreement}


def warnings(real: ImageSet, generated: ImageSet, result: Mapping[str, Any], dim: int, extractor: str) -> list[str]:
    """What a reader must know before quoting the number.

    Args:
        result: numbers of `measure` or `measure_statistics`, and n.
        dim: number of features.
        extractor: name of the extractor.
    """
    found = []
    known = [count for count in result["n"].values() if count is not None]
    n = min(known, default=0)
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
    if len(known) < 2:
        found.append(
            "The saved statistics do not say of how many images they are: the bias of a small N cannot be judged."
        )
    if known and n < dim:
        found.append(
            f"N = {n:,} is below the {dim:,} features: the covariances are singular, and most of the distance is "
            "the bias of a small N."
        )
    if known and n < PROTOCOL_N:
        found.append(
            f"N = {n:,} is below the protocol's {PROTOCOL_N:,} (10,000 for a figure to publish): read the distance "
            "against a floor at the same N, never against a distance at another N."
        )
    floor = result.get("floor")
    if floor and list(floor["n"].values()) != list(result["n"].values()):
        found.append(
            f"The floor has a smaller N than the distance, {floor['n']['real']:,} and {floor['n']['other']:,}, since "
            f"it is measured on {floor['of']}. Distances fall as N grows: read it against the distance at its own N. "
            "More real images (--train) give a floor at the distance's N."
        )
    if not real.about.get("split"):
        found.append(
            "Nothing says that the real images were held out of training: a network that copies them would score well. "
            "Give the run as REAL, or --train."
        )
    return found
