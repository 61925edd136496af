"""A distance between real and generated images, with everything that it depends on written beside it.

Imports NumPy and core only: the features come from a twin (eval/twins/features.py), the mathematics from core.metrics. Every
distance stands beside its real-against-real floor at the same N: what real images score against other real images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.extractors.lens import PARAMETERS
from core.metrics.distances import wasserstein
from core.metrics.frechet import frechet_distance, frechet_distance_from_features
from core.metrics.inception_score import inception_score
from core.metrics.intervals import frechet_floor, frechet_infinity, frechet_interval
from core.metrics.kid import kid
from core.metrics.manifold import density_coverage, precision_recall
from core.metrics.moments import moments_of
from eval.measure.sides import Side, Statistics

Features = npt.NDArray[Any]
Taps = Mapping[str, Features]

PROTOCOL_N = 2000
LEAST = 20
"""Fewest images a side: the interval leaves out ten groups of two."""
FLOOR_DRAWS = 5
LINE_SIZES = 4
"""The smallest N of the extrapolation in 1/N is so many times the number of features; the largest at least twice that."""


@dataclass(frozen=True)
class Choice:
    """Which images of two sides are compared: the same number of each, and real ones besides for the floor."""

    n: int
    real: Features
    generated: Features
    spare: Features
    """(n or more, H, W, C) real images, none of them among `real`."""


def choose(real: Side, generated: Side, asked: int, seed: int) -> Choice:
    """Cut two sides of images to the same N.

    Args:
        real: its images beyond N, or its `others`, measure the floor.
        generated: the first N are taken, as the seed of their noise numbers them.
        asked: N; 0 for the largest that all three have.
        seed: of the random choice of real images.
    Raises:
        ValueError: more asked for than there are, fewer than LEAST, or saved statistics on a side.
    """
    if real.images is None or generated.images is None:
        raise ValueError(f"{real.path}, {generated.path}: must both be images")
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(real.images))
    spare = real.others
    most = min(len(generated.images), *((len(real.images) // 2,) if spare is None else (len(real.images), len(spare))))
    n = asked or most
    if not LEAST <= n <= most:
        counts = (
            f"{len(real.images):,} real"
            + (f", {len(spare):,} more" if spare is not None else "")
            + f" and {len(generated.images):,} generated"
        )
        raise ValueError(
            f"--n {n}: must be from {LEAST} to {most} with {counts} images: N real, N generated, and N real ones again for the floor"
        )
    if spare is None:
        return Choice(n, real.images[order[:n]], generated.images[:n], real.images[order[n : 2 * n]])
    drawn = np.random.Generator(np.random.Philox(key=[seed, 1])).permutation(len(spare))[: 2 * n]
    return Choice(n, real.images[order[:n]], generated.images[:n], spare[np.sort(drawn)])


def _floor(real: Features, spare: Features, seed: int) -> dict[str, Any]:
    """Distances of real rows to other real rows, as many on each side as `real` has."""
    n = len(real)
    if len(spare) == n:
        found = frechet_floor(np.concatenate([real, spare]), n, FLOOR_DRAWS, seed)
        values = found.values
    else:
        draws = [
            np.random.Generator(np.random.Philox(key=[seed, 2 + i])).permutation(len(spare))[:n]
            for i in range(FLOOR_DRAWS)
        ]
        values = np.array([frechet_distance_from_features(real, spare[rows]) for rows in draws])
    return {"mean": float(values.mean()), "std": float(values.std(ddof=1)), "values": values.tolist(), "n": n}


def measure(real: Features, generated: Features, spare: Features, seed: int) -> dict[str, Any]:
    """Every distance between two sets of features, N rows each.

    Args:
        real, generated: (n, d).
        spare: (n or more, d) real ones for the floor.
        seed: of the random draws.
    Returns:
        Plain JSON values; `infinity` is null where N is too small for a straight line in 1/N.
    """
    n, dim = real.shape
    interval = frechet_interval(real, generated, seed=seed)
    score, (precision, recall) = kid(real, generated), precision_recall(real, generated)
    density, coverage = density_coverage(real, generated)
    smallest, infinity = LINE_SIZES * dim, None
    if n >= 2 * smallest:
        limit = frechet_infinity(real, generated, smallest, cut_both=True, seed=seed)
        infinity = {"value": limit.value, "standard_error": limit.standard_error}
    return {
        "frechet": {
            "value": interval.value, "low": interval.low, "high": interval.high, "level": 0.95,
            "standard_error": interval.standard_error, "method": "delete-a-group jackknife of both sets, 10 groups",
        },
        "floor": _floor(real, spare, seed),
        "infinity": infinity,
        "kid": {"value": score.value, "standard_error": score.standard_error},
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }  # fmt: skip


def measure_statistics(real: Features | Statistics, generated: Features | Statistics) -> dict[str, Any]:
    """The Fréchet distance alone, where one side or both are a mean and a covariance that someone saved.

    Raises:
        ValueError: another number of features on the two sides.
    """
    (mu1, cov1), (mu2, cov2) = (
        (side.mu, side.sigma) if isinstance(side, Statistics) else _moments(side) for side in (real, generated)
    )
    return {"frechet": {"value": frechet_distance(mu1, cov1, mu2, cov2)}}


def _moments(rows: Features) -> tuple[Features, Features]:
    found = moments_of([rows])
    return found.mean, found.covariance


def lens_numbers(real: Taps, generated: Taps, spare: Taps, labels: Features | None) -> dict[str, Any]:
    """What the lens extractor reads off the images: parameters as distributions, and classes.

    Args:
        real, generated, spare: taps `parameters` and `logits`.
        labels: (n,) classes that the generated images were asked to be, or None.
    Returns:
        Wasserstein distance of each parameter with its floor, in the parameter's unit (lengths in sides of the field);
        shares of the classes; the share of generated images taken for the class they were asked to be.
    """
    n = len(real["parameters"])
    distances = {
        name: {
            "value": wasserstein(real["parameters"][:, i], generated["parameters"][:, i]),
            "floor": wasserstein(real["parameters"][:, i], spare["parameters"][:n, i]),
        }
        for i, name in enumerate(PARAMETERS)
    }
    classes = {name: np.argmax(taps["logits"], axis=1) for name, taps in (("real", real), ("generated", generated))}
    width = real["logits"].shape[1]
    shares = {name: (np.bincount(found, minlength=width) / len(found)).tolist() for name, found in classes.items()}
    agreement = None if labels is None else float((classes["generated"] == labels[:n]).mean())
    return {"parameters": distances, "class_shares": shares, "class_agreement": agreement}


def inception_numbers(generated: Taps) -> dict[str, Any]:
    """The Inception Score of the generated images."""
    score = inception_score(generated["logits_unbiased"])
    return {"inception_score": {"mean": score.mean, "std": score.std, "splits": 10}}


def warnings(real: Side, generated: Side, n: int, dim: int, extractor: str) -> list[str]:
    """What a reader must know before quoting the number."""
    found = []
    if extractor == "pixels":
        found.append("The features are the pixels of thumbnails of at most 16 x 16: no network judges them and finer detail is not seen. This is not FID and must not be quoted as one.")  # fmt: skip
    if real.statistics or generated.statistics:
        found.append("Saved statistics hold no features: no floor, no interval, no KID, precision or recall; and how their images were prepared cannot be checked.")  # fmt: skip
    else:
        if n < dim:
            found.append(f"N = {n:,} is below the {dim:,} features: the covariances are singular and most of the distance is the excess of a small N.")  # fmt: skip
        if n < PROTOCOL_N:
            found.append(f"N = {n:,} is below the protocol's {PROTOCOL_N:,} (10,000 for a figure one publishes): read the distance against its floor, never against one from another N.")  # fmt: skip
    if not real.about.get("split"):
        found.append("Nothing says that the real images were held out of training: a network that copies them would score well. Give the run as REAL, or --train.")  # fmt: skip
    return found
