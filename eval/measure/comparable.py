"""Whether a distance between two sets of images means something: alike in size, rounding and normalisation."""

from __future__ import annotations

import numpy as np

from core.metrics.pixels import check_images
from eval.measure.image_sets import GREY_STEPS, Images, ImageSet


def is_eight_bit(images: Images) -> bool:
    """Whether every value of the first 64 images is one of 256 grey levels, to float32's rounding."""
    scaled = np.asarray(images[:64], np.float64) * GREY_STEPS
    return bool(np.abs(scaled - np.rint(scaled)).max() < 1e-4)


def is_min_max(images: Images) -> bool:
    """Whether every image spans [0, 1] to both ends."""
    return bool((images.min(axis=(1, 2, 3)) == 0).all() and (images.max(axis=(1, 2, 3)) == 1).all())


def _prepared_alike(real: ImageSet, generated: ImageSet) -> bool | None:
    """Whether the manifests say that the two sets were normalised in the same way; None where they do not say it."""
    data = real.about.get("data_sha256")
    if data is not None and data == generated.about.get("data_sha256"):  # the network was trained on these data
        return True
    first, second = (side.about.get("normalise") for side in (real, generated))
    return None if first is None or second is None else first == second


def assumptions(real: ImageSet, generated: ImageSet) -> list[str]:
    """What a distance takes for granted of how the images were prepared, since no manifest says it."""
    if _prepared_alike(real, generated) is not None:
        return []
    silent = " and ".join(side.path for side in (real, generated) if side.about.get("normalise") is None)
    known = {
        side.path: side.about["normalise"] for side in (real, generated) if side.about.get("normalise") is not None
    }
    also = "".join(f" ({path} says data.normalise = {value!r})" for path, value in known.items())
    found = [f"No manifest says how the images of {silent} were normalised{also}: both are taken as prepared alike."]
    if real.images is not None and generated.images is not None:
        ends = [is_min_max(side.all_images()) for side in (real, generated)]
        if ends[0] != ends[1]:
            path = (real if ends[0] else generated).path
            found.append(
                f"Every image of {path} spans exactly [0, 1], and the other side's do not: this is taken as clipped "
                "values, not as a min-max normalisation of each image of one side."
            )
    return found


def check_comparable(real: ImageSet, generated: ImageSet) -> None:
    """Refuse two sets whose distance would mean nothing.

    Raises:
        ValueError: manifests that name another normalisation, images of other sizes, values out of range, or 8 bits on
            one side only.
    """
    if _prepared_alike(real, generated) is False:
        raise ValueError(
            f"{generated.path}: its manifest says data.normalise = {generated.about['normalise']!r}, and that of "
            f"{real.path} says {real.about['normalise']!r}: must be prepared alike; give images of the same preparation"
        )
    if real.images is None or generated.images is None:
        return
    for side in (real, generated):
        check_images(side.all_images(), side.path)
    if real.images.shape[1:] != generated.images.shape[1:]:
        raise ValueError(
            f"{generated.path}: images of {generated.images.shape[1:]} where {real.path} has {real.images.shape[1:]}: "
            "must be equal; name what to do with --fit resize, crop or pad, or give the run as REAL, whose held-out "
            "images have the right size"
        )
    eight = [is_eight_bit(side.all_images()) for side in (real, generated)]
    if eight[0] != eight[1]:
        path = (real if eight[0] else generated).path
        raise ValueError(
            f"{path}: holds 8-bit values and the other side does not: a distance would measure the rounding too "
            "(1/255 is as large as the sky noise of the lenses); give --eight-bit to round both, or floats on both"
        )
