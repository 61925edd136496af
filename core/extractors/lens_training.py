"""What the lens extractor is trained and scored on: simulated images, targets, reflections, scores.

Images are as the presets make them, noise included. A group shares preset, size and field of view. Half of the groups
are what the recipes use (64 pixels over 7.5", 32 pixels over 5"), and a sixth is the preset model-1. The rest have
sizes and fields of view drawn between these, so that others are served too.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.lens_optics import blur_matrix
from core.data.lenses import simulator
from core.extractors.lens import ANGLES, LARGEST, LENS_PARAMETERS, PARAMETERS, QUALITY, SIDE, SKY_NOISE, SMALLEST
from core.images import resize
from core.random import generator

GROUP = 250
"""Images a group."""

SIZES = (SMALLEST, 48, 64, 96, LARGEST)
FIELDS = (5.0, 7.5)
"""Smallest and largest field of view in arcsec."""

SCORED = (("lensing", 64, 7.5), ("lensing", 32, 5.0), ("model-1", 64, 7.5))
"""Preset, size in pixels and field of view in arcsec of the held-out sets."""

BLURS = (0.2, 1.2)
"""Smallest and largest width of a blur in pixels."""

LOG_NOISES = (-3.3, -1.5)
"""Decimal logarithms of the smallest and largest deviation of added noise."""

Array = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Images `first` to `first + count` of a seed, of one size and field of view (arcsec)."""

    preset: str
    size: int
    field_of_view: float
    seed: int
    first: int
    count: int = GROUP


def training_groups(images: int, seed: int) -> list[Group]:
    """The groups of a training set.

    Args:
        images: a multiple of 1,500, so that the six kinds of group are equally many.
        seed: of the simulator and of the sizes and fields drawn.
    Raises:
        ValueError: another number of images.
    """
    if images < 1 or images % (6 * GROUP):
        raise ValueError(f"images = {images}: must be a multiple of {6 * GROUP}")
    rng = generator(seed, "rows")
    groups = []
    for index in range(images // GROUP):
        size, field = int(rng.choice(SIZES)), float(rng.uniform(*FIELDS))
        kinds = (SCORED[0], SCORED[0], SCORED[1], SCORED[2], ("lensing", size, field), ("lensing", size, field))
        groups.append(Group(*kinds[index % 6], seed, index * GROUP))
    return groups


def simulate_group(group: Group) -> tuple[Array, Labels, Array]:
    """Images (n, 64, 64, 1) float32, labels (n,), and targets (n, 8): PARAMETERS, angles in units of the field."""
    draw = simulator(group.preset, (group.size, group.size), group.seed, field_of_view=group.field_of_view)
    drawn = [draw(index) for index in range(group.first, group.first + group.count)]
    images = resize(np.stack([image for image, _, _ in drawn]), SIDE, SIDE).astype(np.float32)
    scale = {name: 1 / group.field_of_view if name in ANGLES else 1.0 for name in LENS_PARAMETERS}
    targets = np.array([[getattr(p, n) * s for n, s in scale.items()] + [0.0] * len(QUALITY) for _, _, p in drawn])
    return images, np.array([label for _, label, _ in drawn]), targets


def simulate_groups(
    groups: Sequence[Group], processes: int, progress: Callable[[Iterable[Any], int], Iterable[Any]]
) -> tuple[Array, Labels, Array]:
    """All groups, one after another, simulated by several processes; see simulate_group.

    Args:
        groups: at least one.
        processes: how many work at a time.
        progress: given the results' iterator and their number, wraps it.
    """
    # Spawned, since a fork of a process whose framework has started threads may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = list(progress(pool.imap(simulate_group, groups), len(groups)))
    images, labels, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, labels, targets


def reflect(x: Array, targets: Array, upside_down: bool, mirrored: bool) -> tuple[Array, Array]:
    """Images and targets with rows, columns or both reversed, which is a symmetry of both presets' lenses.

    Args:
        x: (B, H, W, C).
        targets: (B, 8), as simulate_group.
        upside_down: rows reversed: source_y and source_e2 change sign.
        mirrored: columns reversed: source_x and source_e2 change sign.
    """
    sign = dict.fromkeys(PARAMETERS, 1.0)
    if upside_down:
        x, sign["source_y"], sign["source_e2"] = x[:, ::-1], -1.0, -sign["source_e2"]
    if mirrored:
        x, sign["source_x"], sign["source_e2"] = x[:, :, ::-1], -1.0, -sign["source_e2"]
    return x, targets * np.array([sign[name] for name in PARAMETERS])


def degrade(x: Array, targets: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Images blurred, made noisier, or both, so that the features learn to notice a generator's faults.

    Args:
        x: (B, 64, 64, 1) in [0, 1]; half of them, drawn at random, are blurred by one width, and half get noise each.
        targets: (B, 8), as simulate_group.
        rng: of widths, deviations and noise.
    Returns:
        Both, changed: x clipped to [0, 1], and the targets' last two columns.
    """
    blurred, noisy = rng.random((2, len(x))) < 0.5
    width, sigma = rng.uniform(*BLURS), 10 ** rng.uniform(*LOG_NOISES, len(x)) * noisy
    matrix = blur_matrix(SIDE, 1, 1.0, width)
    smooth = np.einsum("hi,nijc,wj->nhwc", matrix, x, matrix, optimize=True)
    x = np.where(blurred[:, None, None, None], smooth, x) + sigma[:, None, None, None] * rng.standard_normal(x.shape)
    quality = np.stack([width * blurred, 0.5 * np.log1p((sigma / SKY_NOISE) ** 2)], axis=1)
    return np.clip(x, 0, 1), np.concatenate([targets[:, : -len(QUALITY)], quality], axis=1)


def scores(outputs: dict[str, Array], labels: Labels, targets: Array) -> dict[str, Any]:
    """How well parameters and classes are predicted.

    Args:
        outputs: what the extractor gave for N images.
        labels: (N,).
        targets: (N, 8), as simulate_group.
    Returns:
        count; r2, by name of each parameter that varies: 1 - mean squared error / variance; rmse, in the parameter's
        unit (angles: field's sides); accuracy with its 95 % interval (Wilson's) over the three classes.
    Source: Wilson 1927.
    """
    error = np.asarray(outputs["parameters"], np.float64) - targets
    squared, variance = (error**2).mean(axis=0), targets.var(axis=0)
    n, z = len(labels), 1.959963984540054
    right = float((outputs["logits"].argmax(axis=1) == labels).mean())
    centre, half = right + z * z / (2 * n), z * np.sqrt(right * (1 - right) / n + z * z / (4 * n * n))
    interval = [float((centre + side * half) / (1 + z * z / n)) for side in (-1, 1)]
    varying = {name: i for i, name in enumerate(PARAMETERS) if variance[i] > 1e-12}
    return {
        "count": n,
        "r2": {name: float(1 - squared[i] / variance[i]) for name, i in varying.items()},
        "rmse": {name: float(np.sqrt(squared[i])) for name, i in varying.items()},
        "accuracy": right,
        "accuracy_interval": interval,
    }
