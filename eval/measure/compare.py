"""Generated images held against real ones, every number beside its real-against-real floor.
 The real images are cut at random into two halves of N. One half is the reference; the other says how far real images
lie from real images at that N. No generated set can be expected below that floor. The cut is repeated, so that every
number carries its spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.metrics import distances, pixels
from core.random import generator
from eval.measure.comparable import is_eight_bit
from eval.measure.metrics import Array, Features, measure_all, measure_features, rows

PROTOCOL_N = 2000
SPLITS = 5
HISTOGRAM_BINS = 40
CLOSEST = 8
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
REAL = "real"


def _summary(values: Sequence[float], floor: float | None = None) -> dict[str, float | None]:
    """Mean, range and ratio to the floor over the cuts; null where a value is not defined."""
    if not np.isfinite(values).all():
        return {"mean": None, "min": None, "max": None, "ratio": None}
    mean = float(np.mean(values))
    return {"mean": mean, "min": min(values), "max": max(values), "ratio": mean / floor if floor else None}


def _metrics(features: Mapping[str, Features], n: int, seed: int) -> list[dict[str, Any]]:
    """Every metric of every generated set and its floor, over SPLITS random cuts of the real set."""
    metrics = rows("images")
    values: dict[str, list[dict[str, float]]] = {name: [] for name in features}
    for split in range(SPLITS):
        chosen = {name: generator(seed, "rows", split).permutation(len(f["flux"])) for name, f in features.items()}
        reference = {key: value[chosen[REAL][:n]] for key, value in features[REAL].items()}
        for name, whole in features.items():
            order = chosen[name][n : 2 * n] if name == REAL else chosen[name][:n]
            values[name].append(measure_all(metrics, {key: value[order] for key, value in whole.items()}, reference))
    result = []
    for metric in metrics:
        floor = _summary([cut[metric.key] for cut in values[REAL]])
        del floor["ratio"]
        sets = {
            name: _summary([cut[metric.key] for cut in cuts], floor["mean"])
            for name, cuts in values.items()
            if name != REAL
        }
        about = {key: getattr(metric, key) for key in ("key", "label", "unit", "meaning")}
        result.append({**about, "floor": floor, "sets": sets})
    return result


def _curves(features: Mapping[str, Features], axes: Features) -> dict[str, Any]:
    """Median and 16-84 % band over images of both curves."""
    result = {}
    for curve, key, axis in (("power_spectrum", "power", "frequency"), ("radial_profile", "profile", "radius")):
        bands = {name: np.quantile(f[key], (0.16, 0.5, 0.84), axis=0).tolist() for name, f in features.items()}
        result[curve] = {
            "x": axes[axis].tolist(),
            "sets": {name: {"low": low, "median": median, "high": high} for name, (low, median, high) in bands.items()},
        }
    return result


def _histogram(samples: Mapping[str, Array]) -> dict[str, Any]:
    """Shares of each sample on bins that hold all of them."""
    finite = {name: sample[np.isfinite(sample)] for name, sample in samples.items()}
    merged = np.concatenate(list(finite.values()))
    if merged.size == 0:
        return {"edges": [], "sets": {name: [] for name in finite}}
    edges = np.histogram_bin_edges(merged, HISTOGRAM_BINS)
    return {
        "edges": edges.tolist(),
        "sets": {name: (np.histogram(s, edges)[0] / max(s.size, 1)).tolist() for name, s in finite.items()},
    }


def _nearest(sets: Mapping[str, npt.NDArray[Any]], train: npt.NDArray[Any]) -> dict[str, Any]:
    """Distance of every image to its nearest training image, against that of the held-out real images."""
    found = {name: distances.nearest_images(np.asarray(images), train) for name, images in sets.items()}
    held_out = found[REAL][0]
    threshold = float(np.quantile(held_out, QUANTILES[0]))
    result: dict[str, Any] = {"train_count": len(train), "threshold": threshold, "sets": {}}
    for name, (distance, index) in found.items():
        closest = np.argsort(distance, kind="stable")[:CLOSEST]
        result["sets"][name] = {
            "count": len(distance),
            "quantiles": {f"{q:g}": float(np.quantile(distance, q)) for q in QUANTILES},
            "share_closer": float((distance < threshold).mean()),
            "copies": int((distance == 0).sum()),
            "closest": [{"image": int(i), "train": int(index[i]), "distance": float(distance[i])} for i in closest],
        }
    result["histogram"] = _histogram({name: distance for name, (distance, _) in found.items()})
    return result


def _warnings(
    n: int, sets: Mapping[str, Array], undefined: Mapping[str, int], nearest: dict[str, Any] | None
) -> list[str]:
    """What a reader must know before trusting the numbers."""
    counts = {name: len(images) for name, images in sets.items()}
    result = []
    if n < PROTOCOL_N:
        result.append(
            f"N = {n:,} images a side is below the protocol's {PROTOCOL_N:,}: small differences between sets are "
            "chance. Read each number against its floor, which is measured at the same N."
        )
    smallest = min(count for name, count in counts.items() if name != REAL)
    if counts[REAL] // 2 < smallest:
        result.append(
            f"The real set has {counts[REAL]:,} images; its two halves limit N to {n:,}, fewer than the {smallest:,} "
            "generated. Give more real images to use them all."
        )
    coarse = {name: is_eight_bit(images) for name, images in sets.items()}
    for name in coarse:
        if coarse[name] != coarse[REAL]:
            stored, exact = (name, REAL) if coarse[name] else (REAL, name)
            result.append(
                f"{stored} holds 8-bit values and {exact} does not: every number also measures the rounding, whose "
                "step of 1/255 is as large as the sky noise of the lenses."
            )
    for name, count in undefined.items():
        if count:
            result.append(
                f"{name}: in {count:,} of {counts[name]:,} images nothing rises above the sky; they have no ring "
                "radius and no ellipticity and are left out of those two rows alone."
            )
    if nearest and nearest["sets"][REAL]["copies"]:
        result.append(
            f"{nearest['sets'][REAL]['copies']:,} of the real images are exact copies of training images: they were "
            "not held out, and the nearest-neighbour yardstick is too small. Compare with held-out images."
        )
    return result


def _check(sets: Mapping[str, Array]) -> None:
    """Refuse images that are not in [0, 1] or not of the real ones' size."""
    size = sets[REAL].shape[1:]
    for name, images in sets.items():
        pixels.check_images(images, name)
        if images.shape[1:] != size:
            raise ValueError(
                f"{name}: images of {images.shape[1:]} (height, width, channels): must be {size} as in real; "
                "prepare both with the same function"
            )


def compare(
    real: npt.NDArray[Any],
    generated: Mapping[str, npt.NDArray[Any]],
    train: npt.NDArray[Any] | None = None,
    *,
    pixel_scale: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare generated sets with real images; plain JSON values.

    Args:
        real: (R, H, W, C) in [0, 1], held out of training, R >= 4.
        generated: name -> (M, H, W, C) in [0, 1], M >= 2; any name but "real".
        train: (T, H, W, C) in [0, 1]: the training images, for the search for copies.
        pixel_scale: arcsec per pixel; None leaves lengths in pixels.
        seed: of the random cuts of the real set.
    Returns:
        protocol, counts, warnings, metrics (floor and ratio beside each), curves, histograms and, with train, nearest.
        Lengths are in pixels or arcsec; a number that is not defined is null.
    Raises:
        ValueError: no generated set, a reserved name, too few images, sizes that differ, or images that are refused.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed = {seed}: must be in [0, 2^63)")
    if not generated or REAL in generated:
        raise ValueError(f"generated: names {list(generated)}: must be at least one, none of them {REAL!r}")
    sets = {REAL: real, **generated}
    _check({**sets, "train": train} if train is not None else sets)
    counts = {name: len(images) for name, images in sets.items()}
    n = min(counts[REAL] // 2, *(counts[name] for name in generated))
    if n < 2:
        raise ValueError(f"images: {counts}: must be at least 4 real and 2 of every generated set")
    scale = 1.0 if pixel_scale is None else pixel_scale
    measured = {name: measure_features(images, scale) for name, images in sets.items()}
    features = {name: f for name, (f, _) in measured.items()}
    undefined = {name: int(np.isnan(f["ellipticity"]).sum()) for name, f in features.items()}
    nearest = _nearest(sets, train) if train is not None else None
    return {
        "protocol": {
            "n": n,
            "protocol_n": PROTOCOL_N,
            "splits": SPLITS,
            "seed": seed,
            "image_shape": list(real.shape[1:]),
            "length_unit": "px" if pixel_scale is None else "arcsec",
            "pixel_scale": pixel_scale,
        },
        "counts": counts,
        "warnings": _warnings(n, sets, undefined, nearest),
        "metrics": _metrics(features, n, seed),
        "curves": _curves(features, measured[REAL][1]),
        "histograms": {
            key: _histogram({name: f[key] for name, f in features.items()})
            for key in (m.key for m in rows("images") if m.each)
        },
        "nearest": nearest,
    }
