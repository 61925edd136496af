"""Whether a distance between two sets of images means something: alike in size, rounding and normalisation."""

from __future__ import annotations

import numpy as np

from core.metrics.pixels import check_images
from eval.measure.image_sets import GREY_STEPS, Images, ImageSet
from eval.measure.saved import NETWORK


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
    nameless = [side.path for side in (real, generated) if side.features is not None and not _network(side)]
    if nameless:
        return [
            f"No manifest says which network made the features of {' and '.join(nameless)}: both sides are taken as of "
            "one network, from images that were prepared alike."
        ]
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


def _network(side: ImageSet) -> dict[str, str]:
    """What a side says of the network that made its features, or those of its statistics."""
    said = side.about.get("extractor")
    return {key: said[key] for key in NETWORK if said.get(key)} if isinstance(said, dict) else {}


def named(real: ImageSet, generated: ImageSet) -> dict[str, str]:
    """The network that made given features, as a side with features names it; empty for images."""
    return next((said for side in (real, generated) if side.features is not None and (said := _network(side))), {})


def _check_features(real: ImageSet, generated: ImageSet) -> None:
    """Refuse another number of features, or features of another network; a side may hold statistics."""
    counts = [len(side.statistics[0]) if side.statistics else side.rows().shape[1] for side in (real, generated)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{generated.path}: {counts[1]:,} features an image where {real.path} has {counts[0]:,}: must be of the "
            "same network and layer"
        )
    first, second = _network(real), _network(generated)
    for key in first.keys() & second.keys():
        if first[key] != second[key]:
            raise ValueError(
                f"{generated.path}: features with {key} {second[key]!r} where {real.path} has {first[key]!r}: must be "
                "of the same network"
            )


def check_comparable(real: ImageSet, generated: ImageSet) -> None:
    """Refuse two sets whose distance would mean nothing.

    Raises:
        ValueError: manifests that name another normalisation or network, images of other sizes, another number of
            features, values out of range, or 8 bits on one side only.
    """
    if real.features is not None or generated.features is not None:
        _check_features(real, generated)
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
