"""Simulated lenses, damaged in seven ways at five strengths, as features.

All sets have N images. The reference is one random half of 2N held-out images. Its other half gives the floor: how far
undamaged images lie from undamaged images at that N. Damaged sets of one kind are made of the same images, so that only
the damage differs between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.lens_optics import blur_matrix
from core.data.lenses import Parameters, simulate
from core.extractors.lens import in_arcsec
from core.metrics.distances import nearest_images
from core.random import generator
from eval.measure.metrics import Array, Features, measure_features

SEEDS = {"real": 3_000_001, "train": 3_000_002, "other": 3_000_003}
"""Of the simulator, beside the run's seed; the extractor was trained on others."""

Images = npt.NDArray[np.float32]
Extract = Callable[[Images], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Damage:
    """One way to damage a set, from weak to strong."""

    key: str
    label: str
    strengths: tuple[float, ...]
    """In the unit that the label names."""


DAMAGES = (
    Damage("blur", "Blur, sigma in pixels", (0.25, 0.35, 0.5, 0.7, 1.0)),
    Damage("noise", "Noise added, in intensity", (0.001, 0.002, 0.004, 0.008, 0.016)),
    Damage("theta_e", "Einstein radius too large, in arcsec", (0.01, 0.02, 0.04, 0.08, 0.16)),
    Damage("dropped", "Mode dropped: share of sources, the farthest from the axis", (0.05, 0.1, 0.2, 0.3, 0.4)),
    Damage("copies", "Distinct training images: share of the set", (0.1, 0.2, 0.4, 0.7, 1.0)),
    Damage("few", "Copies of each of a few training images", (2.0, 4.0, 8.0, 16.0, 32.0)),
    Damage("smooth", "Substructure missing: share of images of class no instead", (0.2, 0.4, 0.6, 0.8, 1.0)),
)


def lens_features(images: Images, extract: Extract, field_of_view: float) -> Features:
    """The lens extractor's outputs by name; angles in arcsec."""
    found = extract(images)
    logits = found["logits"].astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    named = in_arcsec(found["parameters"], field_of_view)
    return {
        "lens": found["features"].astype(np.float64),
        "lens_classes": weights / weights.sum(axis=1, keepdims=True),
        **{f"lens_{name}": values for name, values in named.items()},
    }


def blurred(images: Images, pixels: float) -> Images:
    """A Gaussian of a width in pixels over (N, H, W, 1); the edge's value goes on outside."""
    rows, columns = (blur_matrix(side, 1, 1.0, pixels) for side in images.shape[1:3])
    wide = np.einsum("hi,nijc,wj->nhwc", rows, images, columns, optimize=True)
    return np.asarray(np.clip(wide, 0, 1), np.float32)


def noisier(images: Images, sigma: float, seed: int) -> Images:
    """White noise added and the result clipped to [0, 1]; the same noise at every sigma."""
    noise = generator(seed, "rows", 0).standard_normal(images.shape)
    return np.clip(images + sigma * noise, 0, 1).astype(np.float32)


def selected(damage: Damage, strength: float, n: int, offset: Array, seed: int) -> list[tuple[str, npt.NDArray[Any]]]:
    """What a set is made of where damage is a choice of images: (pool, rows of it), n rows in all.

    Args:
        damage, strength: one of dropped, copies, few, smooth.
        n: images.
        offset: (2n,) distance of the sources of the pool `other` from the axis.
        seed: of the choice.
    """
    rng = generator(seed, "rows", 1)
    if damage.key == "dropped":
        return [("other", np.flatnonzero(offset <= np.quantile(offset, 1 - strength))[:n])]
    if damage.key == "few":
        return [("train", np.resize(np.arange(max(1, round(n / strength))), n))]
    damaged = rng.permutation(n) < round(strength * n)
    pool = "train" if damage.key == "copies" else "smooth"
    return [(pool, np.flatnonzero(damaged)), ("other", np.flatnonzero(~damaged))]


class Pools:
    """Simulated and damaged images as features, by name: real and other (2n), train and every other pool (n)."""

    def __init__(self, n: int, size: int, field_of_view: float, seed: int, extract: Extract) -> None:
        self.n, self.seed = n, seed
        self._size, self._field, self._extract = size, field_of_view, extract
        images, _, _ = self._simulate("train", n)
        self._train = images
        other, _, drawn = self._simulate("other", 2 * n)
        self.offset = np.hypot(drawn["source_x"], drawn["source_y"])
        real, _, _ = self._simulate("real", 2 * n)
        smooth, _, _ = self._simulate("other", n, classes=("no",))
        self.features: dict[str, Features] = {
            name: self._measure(pool)
            for name, pool in (("real", real), ("other", other), ("train", images), ("smooth", smooth))
        }
        for damage in DAMAGES[:3]:
            for strength in damage.strengths:
                self.features[f"{damage.key} {strength:g}"] = self._measure(
                    self._damage_images(damage, strength, other[:n])
                )

    def _simulate(self, name: str, n: int, **options: Any) -> tuple[Images, npt.NDArray[np.int64], dict[str, Array]]:
        seed = SEEDS[name] + 10 * self.seed
        return simulate("lensing", n, (self._size, self._size), seed, field_of_view=self._field, **options)

    def _damage_images(self, damage: Damage, strength: float, images: Images) -> Images:
        if damage.key == "blur":
            return blurred(images, strength)
        if damage.key == "noise":
            return noisier(images, strength, self.seed)

        def larger(p: Parameters) -> Parameters:
            return dataclasses.replace(p, theta_e=p.theta_e + strength)

        return self._simulate("other", self.n, change=larger)[0]

    def _measure(self, images: Images) -> Features:
        measured, _ = measure_features(images, self._field / self._size)
        distance, _ = nearest_images(images, self._train)
        return {**measured, **lens_features(images, self._extract, self._field), "nearest": distance}

    def damaged(self, damage: Damage, strength: float) -> Features:
        """The n rows of a damaged set."""
        name = f"{damage.key} {strength:g}"
        if name in self.features:
            return self.features[name]
        parts = [
            {key: value[rows] for key, value in self.features[pool].items()}
            for pool, rows in selected(damage, strength, self.n, self.offset, self.seed)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
