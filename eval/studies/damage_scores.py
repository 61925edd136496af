"""Which metrics see known damage, and which see that substructure is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.random import generator
from eval.measure.metrics import Features, measure_all, rows
from eval.studies.damages import DAMAGES, Pools

SPLITS = 5
PERMUTATIONS = 199
ALL_METRICS = rows("lens", "train", "images")
SUBSTRUCTURE_FEATURES = ("lens", "lens_classes", "lens_theta_e", "thumbnail", "power")
SUBSTRUCTURE_KEYS = ("lens_frechet", "lens_classes", "lens_theta_e", "frechet_thumbnail", "power_spectrum")
SUBSTRUCTURE_METRICS = tuple(metric for metric in ALL_METRICS if metric.key in SUBSTRUCTURE_KEYS)


def take(features: Features, order: npt.NDArray[Any]) -> Features:
    """Some rows of all features."""
    return {key: value[order] for key, value in features.items()}


def summary(values: Sequence[float], chance: Sequence[float] | None = None) -> dict[str, Any]:
    """Mean and range over the cuts; `seen`: every value lies above all of `chance`, those of undamaged images."""
    result = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
    return result if chance is None else {**result, "seen": min(values) > max(chance)}


def score_damage(pools: Pools) -> dict[str, Any]:
    """Every metric of every damaged set against the reference, and the floor, over SPLITS random cuts of the real
    images.

    Returns:
        floor and whole, by metric: mean, min, max; damages: key, label, strengths and, by metric, one such entry a
        strength with `seen`, above both floor and whole, and `monotone`: whether the mean rises with every step of
        strength. `whole` are the images of which the damaged sets are made, undamaged: they show what is chance.
    """
    sets = {(damage.key, s): pools.damaged(damage, s) for damage in DAMAGES for s in damage.strengths}
    whole = ("whole", 0.0)
    sets[whole] = take(pools.features["other"], np.arange(pools.n))
    values: dict[tuple[str, float], list[dict[str, float]]] = {key: [] for key in sets}
    floors: list[dict[str, float]] = []
    for split in range(SPLITS):
        order = generator(pools.seed, "rows", 2 + split).permutation(2 * pools.n)
        reference, rest = (take(pools.features["real"], part) for part in (order[: pools.n], order[pools.n :]))
        floors.append(measure_all(ALL_METRICS, rest, reference))
        for key, features in sets.items():
            values[key].append(measure_all(ALL_METRICS, features, reference))

    def over_cuts(found: Sequence[dict[str, float]], key: str) -> list[float]:
        return [cut[key] for cut in found]

    damages = []
    for damage in DAMAGES:
        found = {}
        for metric in ALL_METRICS:
            chance = over_cuts(floors, metric.key) + over_cuts(values[whole], metric.key)
            entries = [summary(over_cuts(values[damage.key, s], metric.key), chance) for s in damage.strengths]
            rising = bool(np.all(np.diff([entry["mean"] for entry in entries]) > 0))
            found[metric.key] = {"strengths": entries, "monotone": rising}
        damages.append({"key": damage.key, "label": damage.label, "strengths": damage.strengths, "metrics": found})
    return {
        "floor": {m.key: summary(over_cuts(floors, m.key)) for m in ALL_METRICS},
        "whole": {m.key: summary(over_cuts(values[whole], m.key)) for m in ALL_METRICS},
        "damages": damages,
    }


def score_substructure(pools: Pools) -> dict[str, Any]:
    """Are images of class no told from the mixture of all classes? A permutation test of each metric, N against N.

    Returns:
        no_probability: the mean probability of class no in both sets, and their difference with its 95 % interval
        (normal). tests, by metric: observed, the 95 % quantile of the same metric with the labels of the images
        permuted, and p: the share of permutations (the observed one included) that reach the observed value.
    Source: Phipson & Smyth 2010 for p.
    """
    n = pools.n
    first, second = pools.features["smooth"], take(pools.features["real"], np.arange(n))
    joined = {key: np.concatenate([first[key], second[key]]) for key in SUBSTRUCTURE_FEATURES}
    rng, null = generator(pools.seed, "rows", 100), []
    for _ in range(PERMUTATIONS):
        order = rng.permutation(2 * n)
        null.append(measure_all(SUBSTRUCTURE_METRICS, take(joined, order[:n]), take(joined, order[n:])))
    tests = {}
    for key, observed in measure_all(SUBSTRUCTURE_METRICS, first, second).items():
        permuted = [values[key] for values in null]
        p = (1 + sum(value >= observed for value in permuted)) / (1 + PERMUTATIONS)
        tests[key] = {"observed": observed, "null_95": float(np.quantile(permuted, 0.95)), "p": p}
    shares = [features["lens_classes"][:, 0] for features in (first, second)]
    difference = float(shares[0].mean() - shares[1].mean())
    half = 1.96 * float(np.sqrt(sum(share.var(ddof=1) / n for share in shares)))
    no = {
        "class_no": float(shares[0].mean()),
        "mixture": float(shares[1].mean()),
        "difference": difference,
        "interval": [difference - half, difference + half],
    }
    return {"permutations": PERMUTATIONS, "no_probability": no, "tests": tests}
