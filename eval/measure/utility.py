"""What generated images are worth for training: a small model learns from them and is tested on real ones.

The same model learns from as many real images. Scores are means over repetitions, each with other training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from core.metrics.kernel_ridge import LEAST, MOST, KernelRidge
from core.random import generator
from eval.measure.labelled import Labelled

LEVEL = 0.95
SIZES = (125, 250, 500, 1000, 2000)
"""Numbers of training images, as far as half of the smaller set allows."""
LEAST_TEST = 50
CLASS = "class"
REAL, GENERATED = "real", "generated"
Scores = dict[str, npt.NDArray[np.float64]]
"""Target -> (M,) score of each test image, whose mean is the accuracy or R^2."""


def targets_of(train: Labelled, test: Labelled, generated: Labelled, learn: Sequence[str] = ()) -> list[str]:
    """What is learned: `class`, and parameters that all sets have and that vary in each.

    Raises:
        ValueError: there is nothing, or not what `learn` names.
    """
    sets, found = (train, test, generated), []
    if all(one.labels is not None and len(np.unique(one.labels)) > 1 for one in sets):
        found.append(CLASS)
    for name in train.parameters:
        columns = [one.parameters.get(name) for one in sets]
        if all(values is not None and np.isfinite(values).all() and np.ptp(values) > 0 for values in columns):
            found.append(name)
    for name in learn:
        if name not in found:
            raise ValueError(f"--learn {name}: must be one of {', '.join(found) or 'none'}, which both sides have")
    if not found:
        has = {REAL: train, GENERATED: generated}
        names = {side: [CLASS] * (one.labels is not None) + [*one.parameters] for side, one in has.items()}
        said = "; ".join(f"{side} images have {', '.join(known) or 'none'}" for side, known in names.items())
        raise ValueError(f"GENERATED: must have classes or parameters that REAL has too, and that vary: {said}")
    return [name for name in found if not learn or name in learn]


def _check(train: Labelled, test: Labelled, generated: Labelled, sizes: Sequence[int], repetitions: int) -> list[int]:
    """The numbers of training images, where everything fits together."""
    shape = train.images.shape[1:]
    if generated.images.shape[1:] != shape:
        raise ValueError(f"GENERATED: images of {generated.images.shape[1:]}: must be {shape} as in REAL")
    if len(test.images) < LEAST_TEST:
        raise ValueError(f"REAL: {len(test.images)} images for the test: must be at least {LEAST_TEST}")
    if repetitions < 2:
        raise ValueError(f"--repetitions {repetitions}: must be at least 2")
    smaller = min(len(train.images), len(generated.images))
    most = min(smaller // 2, MOST)
    if most < LEAST:
        raise ValueError(
            f"{len(train.images)} real and {len(generated.images)} generated images: must be at least {2 * LEAST} each"
        )
    for n in sizes:
        if not LEAST <= n <= most:
            raise ValueError(
                f"--n {n}: must be from {LEAST} to {most}, half of the smaller set, so that repetitions differ"
            )
    return sorted(set(sizes)) or [n for n in SIZES if n <= most] or [most]


def _scores(train: Labelled, test: Labelled, targets: Sequence[str]) -> Scores:
    """The score of each test image after training on a set."""
    model, found = KernelRidge(train.images, test.images), {}
    if CLASS in targets:
        found[CLASS] = (model.classes(train.labels) == test.labels).astype(np.float64)  # type: ignore[arg-type]
    names = [name for name in targets if name != CLASS]
    if names:
        predicted = model.numbers(np.stack([train.parameters[name] for name in names], axis=1))
        for name, values in zip(names, predicted.T, strict=True):
            true = test.parameters[name]
            found[name] = 1 - (values - true) ** 2 / true.var()
    return found


def measure_utility(
    train: Labelled,
    test: Labelled,
    generated: Labelled,
    sizes: Sequence[int] = (),
    repetitions: int = 10,
    seed: int = 0,
    learn: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores on real images after training on real and on generated ones; plain JSON values.

    Args:
        train, test: real images, none of them in both.
        generated: generated images with classes or parameters that the real ones have too.
        sizes: numbers of training images; none for 125, 250 ... up to half of the smaller set.
        repetitions: trainings for each number, each on other images, at least 2.
        seed: of the choice of images.
        learn: `class` and names of parameters; none for all that the sets have.
    Returns:
        `targets`: for each the baseline and, for each N, both scores with intervals and their difference.
    Raises:
        ValueError: sets that do not fit together, or a number out of range.
    """
    from tqdm import tqdm

    targets = targets_of(train, test, generated, learn)
    sizes = _check(train, test, generated, sizes, repetitions)
    pools = {REAL: train, GENERATED: generated}
    scores: dict[tuple[str, int], list[Scores]] = {(name, n): [] for n in sizes for name in pools}
    jobs = [(name, n, r) for n in sizes for r in range(repetitions) for name in pools]
    for name, n, repetition in tqdm(jobs, desc="utility", unit="training", leave=False):
        pool = pools[name]
        order = generator(seed, "rows", 1 + 2 * repetition + (name == GENERATED)).permutation(len(pool.images))
        scores[name, n].append(_scores(pool.rows(np.sort(order[:n])), test, targets))
    result: dict[str, Any] = {
        "counts": {"train": len(train.images), "test": len(test.images), GENERATED: len(generated.images)},
        "image_shape": list(train.images.shape[1:]),
        "repetitions": repetitions,
        "level": LEVEL,
        "seed": seed,
        "targets": {},
    }
    for target in targets:
        rows = []
        for n in sizes:
            of = {name: np.stack([one[target] for one in scores[name, n]]) for name in pools}
            rows.append({"n": n, **_compare(of, {name: len(pool.images) for name, pool in pools.items()}, n)})
        share = float(np.bincount(test.labels).max() / len(test.labels)) if target == CLASS else 0.0  # type: ignore[arg-type]
        score = "accuracy" if target == CLASS else "R2"
        result["targets"][target] = {"score": score, "baseline": share, "rows": rows}
    result["warnings"] = _warnings(result)
    return result


def _compare(scores: dict[str, npt.NDArray[np.float64]], pools: dict[str, int], n: int) -> dict[str, Any]:
    """Both scores and their difference, from (repetitions, M) scores of each test image.

    Subsets of one pool share images, so their scores vary less than those of independent training sets: by 1 - n / pool
    in variance. The intervals are corrected for it. That of a score holds the score of another training set of n
    images, on the same test images. Standard errors, and the interval of the difference, have the choice of test images
    in them too.
    """
    found: dict[str, Any] = {}
    repetitions = len(scores[REAL])
    reach = float(scipy.special.stdtrit(repetitions - 1, (1 + LEVEL) / 2))
    of_means = 0.0
    for name, values in scores.items():
        each, share = values.mean(axis=1), n / pools[name]
        variance = float(each.var(ddof=1)) / (1 - share)
        of_mean = variance * (share + (1 - share) / repetitions)
        of_means += of_mean
        value, half = float(each.mean()), reach * float(np.sqrt(variance + of_mean))
        error = float(np.sqrt(of_mean + values.mean(axis=0).var(ddof=1) / values.shape[1]))
        interval = {"low": value - half, "high": min(value + half, 1.0)}
        found[name] = {"value": value, **interval, "standard_error": error, "values": each.tolist()}
    gap = scores[GENERATED].mean(axis=0) - scores[REAL].mean(axis=0)
    half = reach * float(np.sqrt(of_means + gap.var(ddof=1) / len(gap)))
    value = float(gap.mean())
    return found | {"difference": {"value": value, "low": value - half, "high": value + half}}


def _warnings(result: dict[str, Any]) -> list[str]:
    """What a reader must know before trusting the numbers."""
    found = []
    for target, entry in result["targets"].items():
        last = entry["rows"][-1]
        real = last[REAL]
        if real["value"] - 3 * real["standard_error"] <= entry["baseline"]:
            found.append(
                f"{target}: {last['n']:,} real images teach nothing that is certain, {entry['score']} "
                f"{real['value']:.3f} against {entry['baseline']:.3f} without any. Generated ones cannot be judged."
            )
    return found
