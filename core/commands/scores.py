"""One number an image: the file of scores of `likelihood`, and whether the scores tell two sets apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

COLUMNS = ("set", "image", "bits_per_dimension")


def check_scores_file(path: str) -> None:
    """Raise ValueError where `path` cannot be a file of scores; an empty path is none."""
    if path and (Path(path).suffix != ".csv" or Path(path).is_dir()):
        raise ValueError(f"--scores {path}: must be a file that ends in .csv")


def write_scores(path: str, sets: Mapping[str, tuple[list[str], np.ndarray]]) -> None:
    """Write a CSV file, atomically: a row an image, with its set, its name and its bits per dimension.

    Args:
        path: file that ends in .csv; it is replaced.
        sets: what the user calls a set -> names of its images, and (N,) scores.
    """
    from core.files import write_text_atomic

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, (images, scores) in sets.items():
        writer.writerows((name, image, repr(float(score))) for image, score in zip(images, scores, strict=True))
    write_text_atomic(Path(path), text.getvalue())


def compare_scores(first: np.ndarray, second: np.ndarray, identity: Mapping[str, Any]) -> dict[str, Any]:
    """How the scores of a second set lie to those of the first.

    Args:
        first, second: (m,) and (n,) bits per dimension.
        identity: origin of the second set's images.
    Returns:
        Plain JSON values. `auc` and its standard error are null where a set has one image only.
    """
    from core.inference.likelihood import mean_and_error
    from core.metrics.auc import area_under_curve

    area = area_under_curve(first, second) if min(len(first), len(second)) > 1 else None
    mean, error = mean_and_error(second)
    return {
        "n": len(second),
        "bits_per_dimension": mean,
        "standard_error": error if len(second) > 1 else None,
        "auc": area and area.value,
        "auc_standard_error": area and area.standard_error,
        "data": dict(identity),
    }


def line_of_comparison(found: Mapping[str, Any]) -> str:
    """The comparison as a line of text."""
    error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.4f}"
    bits = f"second set  {found['bits_per_dimension']:.4f}{error} bits/dim   ({found['n']} images)"
    if found["auc"] is None:
        return bits
    share = "how often an image of the second set has more bits than one of the first"
    return f"{bits}\nAUC         {found['auc']:.4f} ± {found['auc_standard_error']:.4f}   ({share})"
