"""The distance of each contestant's images from held-out ones, at the same N for all contestants of a cell.

A cell is a set of images and a length of training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.arrays import read_npy
from core.files import write_json
from core.metrics.distances import nearest_images
from core.metrics.pixels import check_images
from core.reading import read_json
from eval.measure.distance import cut, measure
from eval.measure.image_sets import ImageSet
from eval.measure.metrics import NEAR
from eval.measure.race_sets import Course, Extract, Images

log = logging.getLogger(__name__)

SEED = 0
"""Of the choice of real images."""


def smallest_n(results: Sequence[Mapping[str, Any]]) -> int:
    """Images that every contestant of a cell has drawn."""
    return int(min(result["facts"]["n"] for result in results))


def measure_cell(course: Course, paths: Sequence[Path]) -> None:
    """Measure the results of a cell that are not measured at the cell's N, and write it into their files.

    Args:
        course: the set of images.
        paths: the result files of the cell.
    """
    results = {path: read_json(path) for path in paths}
    n = smallest_n(list(results.values()))
    known_by = course.classifier_record()
    missing = [path for path, result in results.items() if not _measured_by(result, n, known_by)]
    if not missing:
        return
    data = course.dataset
    held_out, seen = (np.asarray(data.images[rows]) for rows in (data.held_out, data.train))
    real = ImageSet("held out", held_out, others=seen)
    part = cut(real, real, n, SEED)
    with course.open_features() as extracts:
        known = {name: (extract(part.real), extract(part.spare)) for name, extract in extracts.items()}
        yardstick = float(np.quantile(nearest_images(part.real, seen)[0], NEAR))
        for path in missing:
            log.info("%s: measure at N = %s", path.stem, f"{n:,}")
            images = drawn(path, n, course.about.eight_bit)
            found: dict[str, Any] = {
                "features": {name: _distance(extracts[name], known[name], images) for name in extracts}
            }
            share = float((nearest_images(images, seen)[0] < yardstick).mean())
            found |= {"nearest_share": share, "classifier": course.classifier_record()}
            results[path]["measured"][str(n)] = found
            write_json(path, results[path])


def _measured_by(result: Mapping[str, Any], n: int, classifier: Mapping[str, Any]) -> bool:
    """Whether a result is measured at N by this classifier."""
    return str(n) in result["measured"] and result["measured"][str(n)]["classifier"] == classifier


def drawn(path: Path, n: int, eight_bit: bool) -> Images:
    """The first n images of a result, rounded to 256 grey levels where the real ones are."""
    images = read_npy(path.with_suffix("") / "samples.npy")[:n]
    check_images(images, str(path.with_suffix("") / "samples.npy"))
    one = ImageSet(str(path), images)
    return (one.rounded() if eight_bit else one).all_images()


def _distance(extract: Extract, known: tuple[Images, Images], images: Images) -> dict[str, Any]:
    """Every number of `measure`; the floor has its own N."""
    return measure(known[0], extract(images), known[1], SEED)
