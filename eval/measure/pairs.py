"""Restored images held against the truth, image by image: errors, physics, and whether draws are calibrated.

Several draws of each image, their mean, and bicubic interpolation of the inputs are measured alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from core.extractors.lens import in_arcsec
from core.metrics.calibration import coverage, rank_shares, spread_ratio, uniform_test
from core.metrics.distances import wasserstein
from core.metrics.resampling import DRAWS, distance_interval, mean_intervals
from core.metrics.restoration import mean_squared_error, psnr, structural_similarity
from eval.measure.image_sets import Images
from eval.measure.metrics import rows
from eval.measure.pair_sets import BICUBIC, DRAW, LEAST, Measured, check_sets, restored_sets

LEVEL = 0.95
BLOCK = 128  # images whose ranks are counted at a time
LABELS = {metric.key: metric.label.removesuffix(" (W1)") for metric in rows("lens", "images")}
UNITS = {metric.key: "length" if metric.unit == "arcsec" else metric.unit for metric in rows("lens", "images")}
"""`length` stands for pixels or arcsec, as the result says."""
Array = npt.NDArray[Any]
Extract = Callable[[Images], Mapping[str, Array]]


def measure_pairs(
    truth: Images,
    draws: Images,
    inputs: Images | None = None,
    extract: Extract | None = None,
    measured: Measured | None = None,
    pixel_scale: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure of restored images; plain JSON values.

    Args:
        truth: (N, H, W, C) in [0, 1], N at least 20.
        draws: (N, K, H, W, C) in [0, 1]: K answers to each input.
        inputs: (N, h, w, C'), what the images were restored from; None leaves bicubic interpolation out.
        extract: images -> taps of the lens extractor; None leaves its parameters out.
        measured: how the inputs were measured; None leaves the chi squared of the residual out.
        pixel_scale: arcsec per pixel; None leaves lengths in pixels.
        seed: of the bootstrap and of the groups that the jackknife leaves out.
    Returns:
        `quality` (errors by set), `gain` over bicubic, `physics` and, for K of 2 and more, `calibration`. A number
        that is not defined is null.
    Raises:
        ValueError: sets that do not fit together, or images that are refused.
    """
    check_sets(truth, draws, inputs)
    sets = restored_sets(truth, draws, inputs)
    errors = {name: _errors(truth, images) for name, images in sets.items()}
    if measured is not None and inputs is not None:
        for name, images in {**sets, "truth": truth[:, None]}.items():
            errors.setdefault(name, {})["chi_squared"] = measured.chi_squared(inputs, images)
    truth_numbers, numbers = _physics_numbers(truth, sets, extract, 1.0 if pixel_scale is None else pixel_scale)
    several = draws.shape[1] > 1
    return {
        "n": len(truth),
        "draws": draws.shape[1],
        "image_shape": list(truth.shape[1:]),
        "input_shape": None if inputs is None else list(inputs.shape[1:]),
        "length_unit": "px" if pixel_scale is None else "arcsec",
        "pixel_scale": pixel_scale,
        "level": LEVEL,
        "bootstrap_draws": DRAWS,
        "seed": seed,
        "quality": {name: _estimates(columns, seed) for name, columns in errors.items()},
        "gain": _gains(errors, seed),
        "physics": _physics(truth_numbers, numbers, seed),
        "calibration": _calibration(truth, draws, truth_numbers, numbers[DRAW], seed) if several else None,
        "warnings": _warnings(truth, draws, inputs),
    }


def _errors(truth: Images, images: Images) -> dict[str, Array]:
    """PSNR, SSIM and mean squared error, (N,) each, averaged over an image's M restorations."""
    squared = np.stack([mean_squared_error(truth, images[:, m]) for m in range(images.shape[1])])
    similar = np.stack([structural_similarity(truth, images[:, m]) for m in range(images.shape[1])])
    return {"psnr": psnr(squared).mean(axis=0), "ssim": similar.mean(axis=0), "mse": squared.mean(axis=0)}


def _estimate(value: float, low: float, high: float) -> dict[str, float] | None:
    """A number with its interval; None where it is not defined."""
    return {"value": value, "low": low, "high": high} if np.isfinite([value, low, high]).all() else None


def _estimates(columns: Mapping[str, Array], seed: int) -> dict[str, dict[str, float] | None]:
    """Means over images with their intervals, by name."""
    found = mean_intervals(np.stack(list(columns.values()), axis=1), level=LEVEL, seed=seed)
    return {name: _estimate(*(float(part[i]) for part in found)) for i, name in enumerate(columns)}


def _gains(errors: Mapping[str, Mapping[str, Array]], seed: int) -> dict[str, Any]:
    """PSNR and SSIM of each set less those of bicubic, image by image."""
    base = errors.get(BICUBIC)
    if base is None:
        return {}
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return {
            name: _estimates({key: columns[key] - base[key] for key in ("psnr", "ssim")}, seed)
            for name, columns in errors.items()
            if name not in (BICUBIC, "truth")
        }


def _physics_numbers(
    truth: Images, sets: Mapping[str, Images], extract: Extract | None, scale: float
) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """Numbers measured on each image, by key: (N,) of the truth, and (N, M) of each set."""
    each = {metric.key: metric.each for metric in rows("images") if metric.each}

    def measure(images: Images) -> dict[str, Array]:
        found = {key: function(images, scale) for key, function in each.items()}
        if extract is not None:
            named = in_arcsec(extract(images)["parameters"], scale * images.shape[1])
            found |= {f"lens_{name}": values for name, values in named.items()}
        return found

    of_sets = {}
    for name, images in sets.items():
        parts = [measure(images[:, m]) for m in range(images.shape[1])]
        of_sets[name] = {key: np.stack([part[key] for part in parts], axis=1) for key in parts[0]}
    return measure(truth), of_sets


def _physics(truth: Mapping[str, Array], sets: Mapping[str, Mapping[str, Array]], seed: int) -> dict[str, Any]:
    """Distances and paired errors of every number measured on an image.

    `left_out` counts the images in which a number is not defined in the truth or in a restoration.
    """
    result: dict[str, Any] = {}
    for key, true in truth.items():
        columns: dict[str, Any] = {}
        for name, numbers in sets.items():
            there = np.isfinite(true) & np.isfinite(numbers[key]).all(axis=1)
            columns[name] = {"w1": None, "bias": None, "error": None, "left_out": int((~there).sum())}
            if there.sum() >= LEAST:
                columns[name] |= _distances(true[there], numbers[key][there], seed)
        spread = float(np.nanstd(true)) if np.isfinite(true).any() else None
        result[key] = {"label": _label(key), "unit": UNITS[key], "std_of_truth": spread, "sets": columns}
    return result


def _distances(true: Array, found: Array, seed: int) -> dict[str, Any]:
    """Wasserstein distance, mean error and mean absolute error of numbers (N, M) against true ones (N,)."""
    w1 = distance_interval(lambda r: wasserstein(true[r], found[r].ravel()), len(true), level=LEVEL, seed=seed)
    error = found - true[:, None]
    paired = {"bias": error.mean(axis=1), "error": np.abs(error).mean(axis=1)}
    return {"w1": _estimate(*w1), **_estimates(paired, seed)}


def _label(key: str) -> str:
    """The name of a number measured on an image."""
    return LABELS.get(key, "All pixels")


def _calibration(
    truth: Images, draws: Images, numbers: Mapping[str, Array], of_draws: Mapping[str, Array], seed: int
) -> dict[str, Any]:
    """Ranks, their test and coverage, of pixels and of every number measured on an image; and the spread of draws."""
    blocks = [
        (x.reshape(len(x), -1), y.reshape(*y.shape[:2], -1))
        for x, y in ((truth[s : s + BLOCK], draws[s : s + BLOCK]) for s in range(0, len(truth), BLOCK))
    ]
    ranked = {"pixels": np.concatenate([rank_shares(*block) for block in blocks])}
    for key, true in numbers.items():
        there = np.isfinite(true) & np.isfinite(of_draws[key]).all(axis=1)
        if there.sum() >= LEAST:
            ranked[key] = rank_shares(true[there, None], of_draws[key][there][:, :, None])
    spread, error = (np.concatenate(part) for part in zip(*(spread_ratio(*block) for block in blocks), strict=True))
    ratio = None
    if error.all():
        ratio = distance_interval(lambda r: float(np.sqrt(spread[r].mean() / error[r].mean())), len(error), level=LEVEL)
    statistics = {}
    for key, shares in ranked.items():
        covered = coverage(shares)
        found = mean_intervals(covered.each, level=LEVEL, seed=seed)
        statistics[key] = {
            "label": _label(key),
            "n": len(shares),
            "ranks": shares.mean(axis=0).tolist(),
            "p": uniform_test(shares),
            "coverage": [
                {"nominal": float(nominal), **(_estimate(*(float(part[i]) for part in found)) or {})}
                for i, nominal in enumerate(covered.nominal)
            ],
        }
    return {"spread_over_error": ratio and _estimate(*ratio), "statistics": statistics}


def _warnings(truth: Images, draws: Images, inputs: Images | None) -> list[str]:
    """What a reader must know before trusting the numbers."""
    found, count, k = [], len(truth), draws.shape[1]
    if inputs is not None and inputs.shape[3] != truth.shape[3]:
        found.append(
            f"The inputs have {inputs.shape[3]} channels and the truth {truth.shape[3]}: nothing is interpolated from "
            "them, and bicubic is left out."
        )
    if k > 1 and count < 5 * (k + 1):
        found.append(
            f"{count} images are too few to test {k + 1} ranks: the test needs {5 * (k + 1)}, five for each rank."
        )
    return found
