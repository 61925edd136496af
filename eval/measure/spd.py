"""Generated positive definite matrices against real ones, beside a Gaussian in the chart and the floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from core.metrics.spd import Sample, compare, discrepancies, energy_kernel, gaussian_kernel, sample_of
from core.random import generator
from core.spd.chart import coordinates, from_coordinates
from core.spd.laws import PREFIX, law_of, simulate_spd
from core.spd.matrices import Matrices, check_symmetric, is_positive, matrix_file, read_arrays, read_matrices

Array = npt.NDArray[np.float64]

Split = Literal["all", "train", "held-out"]

PAIRS = 16
"""Ways to halve the real matrices."""
LEAST = 20
"""Fewest matrices of a half."""


@dataclass(frozen=True)
class Part:
    """Which matrices of an .npz file are meant."""

    split: Split = "all"
    """Those that its array held_out names, the others, or all."""
    class_name: str | None = None
    """Those of one class; None for all."""

    def chosen(self, found: Matrices, source: str) -> Array:
        """The matrices of the part.

        Raises:
            ValueError: the file has no such part.
        """
        keep = np.ones(len(found.values), bool)
        if self.split != "all":
            if "held_out" not in found.parameters:
                raise ValueError(f"--split {self.split}: {source} has no array held_out; leave --split out")
            keep &= (found.parameters["held_out"] != 0) == (self.split == "held-out")
        if self.class_name is not None:
            if found.labels is None or self.class_name not in found.class_names:
                names = ", ".join(found.class_names) or "none"
                raise ValueError(f"--class-name {self.class_name}: must be a class of {source}: {names}")
            keep &= found.labels == found.class_names.index(self.class_name)
        return found.values[keep]


WHOLE = Part()


def real_matrices(source: str, count: int, seed: int, m: int, part: Part = WHOLE) -> Array:
    """At most `count` real matrices, (N, m, m), chosen or simulated by a seed.

    Raises:
        ValueError: no such file, part or law, a matrix that is not positive definite, or another m.
    """
    if source.startswith("simulate:"):
        if part != WHOLE:
            raise ValueError(f"{source}: has no parts: leave --split and --class-name out")
        return simulate_spd(law_of(source), count, seed, m).values
    path = matrix_file(source)
    values = part.chosen(read_matrices(path), str(path))
    if values.shape[1] != m:
        raise ValueError(f"{path}: matrices of {values.shape[1]} x {values.shape[1]}: must be {m} x {m}, as generated")
    return values[generator(seed, "rows").permutation(len(values))[:count]]


def generated_matrices(source: str, count: int, seed: int) -> Array:
    """All generated matrices, (N, m, m): symmetric and finite, but not checked to be positive definite.

    Raises:
        ValueError: no such file or law, or a matrix that is not symmetric or not finite.
    """
    if source.startswith("simulate:"):
        return simulate_spd(law_of(source), count, seed).values
    path = matrix_file(source)
    return check_symmetric(read_arrays(path)["matrices"], str(path))


def gaussian_in_chart(train: Array, count: int, seed: int) -> Array:
    """Matrices whose coordinates are Gaussian, with the mean and covariance of the given ones."""
    z = coordinates(train)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z.T)))
    noise = generator(seed, "rows", 2).standard_normal((count, z.shape[1]))
    return from_coordinates(noise * np.sqrt(np.maximum(values, 0)) @ vectors.T + z.mean(axis=0))


def evaluate_spd(
    real: str, generated: str, train: str | None, n: int, seed: int, part: Part
) -> tuple[dict[str, Any], Any]:
    """Measure generated matrices against real ones.

    Args:
        real, generated: a .npy or .npz file, a folder with samples.npy, or simulate:spd-NAME.
        train: matrices that the Gaussian is fitted to; None takes the training part of `real` where it has parts, else
            the real ones.
        n: most matrices of each side.
        seed: of choices and simulations; generated ones that are simulated take seed + 1.
        part: the part of `real`.
    Returns:
        Plain JSON values; and the sets to draw, by title.
    Raises:
        ValueError: input that the user must change.
    """
    drawn = generated_matrices(generated, n, seed + 1)
    positive = is_positive(drawn)
    m, n = drawn.shape[1], min(n, len(drawn))
    found = real_matrices(real, 2 * n, seed, m, part)
    half = len(found) // 2
    if half < LEAST or n < 2:
        raise ValueError(
            f"{real}: {len(found)} matrices, {generated}: {len(drawn)}: must be at least {2 * LEAST} and 2"
        )
    fitted = found
    if train is not None:
        fitted = real_matrices(train, 10**9 if _is_file(train) else 2 * n, seed + 2, m)
    elif part.split == "held-out":
        fitted = real_matrices(real, 10**9, seed, m, replace(part, split="train"))
    others = {"gaussian": gaussian_in_chart(fitted, n, seed)}
    if positive.all():
        others["generated"] = drawn[generator(seed, "rows", 1).permutation(len(drawn))[:n]]
    halves = np.stack([generator(seed, "rows", 3, k).permutation(len(found)) < half for k in range(PAIRS)], axis=1)
    result = {
        "real": {"source": real, "n": len(found), "split": part.split, "class_name": part.class_name},
        "generated": {"source": generated, "n": len(drawn), "measured": n, "not_spd": int((~positive).sum())},
        "gaussian": {"fitted_to": train or (f"{real}, train" if part.split == "held-out" else real), "n": len(fitted)},
        "m": m,
        "half": half,
        "pairs": PAIRS,
        "seed": seed,
        "share_spd": float(positive.mean()),
        "metrics": measure(found, halves, others),
    }
    return result, {"real": found} | {name: others[name] for name in ("generated", "gaussian") if name in others}


def _is_file(source: str) -> bool:
    return not source.startswith(PREFIX)


def measure(real: Array, halves: npt.NDArray[np.bool_], others: dict[str, Array]) -> dict[str, dict[str, Any]]:
    """Every metric of each set and of the floor, over the ways to halve the real matrices.

    Returns:
        metric -> floor, gaussian and generated, each with mean, std, least and greatest. generated is None where it is
        not among `others`.
    """
    from tqdm import tqdm

    z = coordinates(real)
    at = {name: coordinates(values) for name, values in others.items()}
    values: dict[str, dict[str, Sequence[float]]] = {}
    for name, kernel in (("energy_distance", energy_kernel), ("mmd_squared", gaussian_kernel(z))):
        apart = discrepancies(z, halves, at, kernel)
        values[name] = {"floor": [*apart.floor], **{key: [*found] for key, found in apart.others.items()}}
    samples = {name: sample_of(matrices) for name, matrices in others.items()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("floor", *samples)}
    for first in tqdm(halves.T, desc="Halves", unit="pair", leave=False):
        against: dict[str, Sample] = {"floor": sample_of(real[~first]), **samples}
        reference = sample_of(real[first])
        for name, sample in against.items():
            rows[name].append(compare(reference, sample))
    for metric in rows["floor"][0]:
        values[metric] = {name: [row[metric] for row in found] for name, found in rows.items()}
    names = ("generated", "gaussian", "floor")
    return {
        metric: {name: _spread(found[name]) if name in found else None for name in names}
        for metric, found in values.items()
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation and range."""
    numbers = np.asarray(values)
    deviation = float(numbers.std(ddof=1))
    return {
        "mean": float(numbers.mean()),
        "std": deviation,
        "least": float(numbers.min()),
        "greatest": float(numbers.max()),
    }
