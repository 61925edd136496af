"""Measurements that a user gives to `edit solve`: the operator by its name, and the files of measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.checkpoints.trained import Trained
from core.data.formats import decode
from core.data.pixels import to_float
from core.data.sources import open_source
from core.diffusion.measurements import Blur, Downscale, Mask, Measurement, centred_psf, gaussian_psf
from core.inference.editing import Images, read_mask
from core.inference.given_images import HELD_OUT, GivenImages, given_images
from core.random import gaussian
from core.reading import check_file, reading

OPERATORS = "blur:SIGMA, downscale:K, mask:FILE or psf:FILE"


def read_operator(text: str, size: tuple[int, int]) -> Measurement:
    """The measurement that --operator names, for images of a size.

    Args:
        text: blur:SIGMA in pixels, downscale:K, mask:FILE with the unknown pixels above half of white, or psf:FILE.
        size: height and width of the images in pixels.
    Raises:
        ValueError: another text, a value out of range, or a file that does not fit.
    """
    kind, _, value = text.partition(":")
    if kind == "blur":
        return Blur(gaussian_psf(_number(text, value, max(size)), size))
    if kind == "downscale":
        factor = _number(text, value, min(size))
        if factor != int(factor) or size[0] % factor or size[1] % factor:
            raise ValueError(f"--operator {text}: must have a whole number that divides {size[0]} and {size[1]}")
        return Downscale(int(factor))
    if kind == "mask" and value:
        return Mask(~read_mask(value, size, "--operator mask:"))
    if kind == "psf" and value:
        return Blur(centred_psf(_read_psf(value, size), size))
    raise ValueError(f"--operator {text}: must be {OPERATORS}" if text else f"--operator: missing; must be {OPERATORS}")


def _number(text: str, value: str, most: int) -> float:
    """A number of pixels above 0."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise ValueError(f"--operator {text}: must have a number above 0 and at most {most}, in pixels")
    return number


def _read_psf(file: str, size: tuple[int, int]) -> NDArray[np.float64]:
    """A PSF (h, w) from a picture or .npy file, not normalised."""
    name, path = f"--operator psf:{file}", Path(file)
    if not path.is_file():
        raise ValueError(f"{name}: no such file")
    with reading(path, "a PSF", "give a picture or a .npy file of one channel"):
        check_file(path, 2)
        psf = decode(path.read_bytes(), file, channels=1)[..., 0].astype(np.float64)
    if psf.shape[0] > size[0] or psf.shape[1] > size[1]:
        raise ValueError(f"{name}: {psf.shape[0]}x{psf.shape[1]} pixels: must be at most {size[0]}x{size[1]}")
    with np.errstate(over="ignore"):
        total = psf.sum()
    if not 0 < total < np.inf:  # which NaN is not, either
        raise ValueError(f"{name}: must be finite, with a sum above 0")
    return psf


def measured_images(
    where: str,
    folder: Path,
    trained: Trained,
    operator: Measurement,
    noise: float,
    first: int,
    count: int,
    seed: int,
) -> GivenImages:
    """Measurements `first` to `first + count` of files; or of held-out images, which are measured here.

    Args:
        where: held-out, or anything that core.data.sources.open_source() opens. Values may lie outside [0, 1].
        folder: checkpoint whose recipe names the held-out images.
        trained: the network, for the size and channels of its images.
        operator, noise: the measurement, and the standard deviation of its noise in intensity.
        first, count: index of the first one, and their number.
        seed: of the noise that held-out images are measured with; it depends on each image's index, too.
    Returns:
        The measurements (N, h, w, C) float64, with the held-out images as `originals`.
    Raises:
        ValueError: fewer measurements, or another size.
    """
    blank = np.zeros((1, *trained.image_shape))
    shape = operator.forward(blank).shape[1:]
    if where == HELD_OUT:
        given = given_images(where, folder, trained, first, count)
        return GivenImages(
            measure(given.images, operator, noise, seed, first), None, given.identity, originals=given.images
        )
    source = open_source(where, shape[2])
    if first + count > len(source.names):
        there = f"{len(source.names)} together, the number of images in {where}"
        raise ValueError(f"--first {first} --n {count}: must be at most {there}")
    if source.shape[:2] != shape[:2]:
        found, needed = ("x".join(map(str, size[:2])) for size in (source.shape, shape))
        raise ValueError(f"{source.names[0]}: {found} pixels: must have {needed}, as --operator measures the images")
    values = np.stack([to_float(source.read(index)) for index in range(first, first + count)])
    return GivenImages(values, None, {"path": where, "first": first, **source.identity})


def measure(images: Images, operator: Measurement, noise: float, seed: int, first: int) -> NDArray[np.float64]:
    """Measurements of images (N, H, W, C) in [0, 1]; the noise depends on the seed and on each image's index."""
    y = operator.forward(images.astype(np.float64))
    return np.asarray(y + noise * operator.valid * gaussian(seed, "edit", range(first, first + len(y)), 0, y.shape[1:]))
