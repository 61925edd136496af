"""Pictures: network range <-> [0, 1] <-> uint8 by one rounding rule, resizing, grids, PNG and GIF.

Images are (N, H, W, C) floats in [0, 1]. Pillow is imported inside the writers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.files import write_atomically

FloatArray = npt.NDArray[np.floating[Any]]


def to_unit(x: FloatArray, stretch: float = 0.0) -> FloatArray:
    """Network range to [0, 1], clipped.

    Args:
        x: any shape, float, nominally in [-1, 1].
        stretch: offset of the square-root stretch that from_unit() applied; 0 for none.
    Returns:
        Same shape and dtype, in [0, 1].
    """
    y = np.clip((x + 1) / 2, 0, 1)
    if not stretch:
        return y
    low, high = math.sqrt(stretch), math.sqrt(1 + stretch)
    root = y * (high - low)  # sqrt(x + a) - sqrt(a)
    return np.clip(root * (root + 2 * low), 0, 1)


def from_unit(x: FloatArray, stretch: float = 0.0) -> FloatArray:
    """[0, 1] to the network's range [-1, 1].

    Args:
        x: any shape, float; with a stretch, values below 0 count as 0.
        stretch: offset a of y = (sqrt(x + a) - sqrt(a)) / (sqrt(1 + a) - sqrt(a)); 0 leaves y = x.
    Returns:
        2 y - 1, same shape and dtype.
    Source: Anscombe 1948: the square root of a Poisson variable has nearly the same variance at every mean.
    """
    if stretch:
        low, high = math.sqrt(stretch), math.sqrt(1 + stretch)
        x = (np.sqrt(np.maximum(x, 0) + stretch) - low) / (high - low)
    return x * 2 - 1


def intensity_and_slope(x: FloatArray, stretch: float = 0.0) -> tuple[FloatArray, Any]:
    """to_unit() without its clipping, and its derivative.

    Args:
        x: any shape, float, in the network's range.
        stretch: as in to_unit(). Below x = -1 the curve goes on as its tangent there.
    Returns:
        intensity, shaped as x, and its derivative: a number without a stretch, otherwise shaped as x.
    """
    y = (x + 1) / 2
    if not stretch:
        return y, 0.5
    low, high = math.sqrt(stretch), math.sqrt(1 + stretch)
    root = y * (high - low)
    positive = np.maximum(root, 0)
    return positive**2 + 2 * low * root, (high - low) * (positive + low)


def to_uint8(unit: FloatArray) -> npt.NDArray[np.uint8]:
    """The one rounding rule: round(255 x), half to even, clipped; equal to round(127.5 x + 127.5) on [-1, 1].

    Args:
        unit: any shape, float in [0, 1]; values outside are clipped, never wrapped.
    Returns:
        Same shape, uint8.
    Raises:
        ValueError: NaN or infinity.
    """
    scaled = np.asarray(unit, np.float64) * 255
    if not np.isfinite(scaled).all():
        raise ValueError("images: values that are not finite cannot be drawn; look at the run that made them")
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def resize_matrix(size_in: int, size_out: int) -> npt.NDArray[np.float64]:
    """Antialiased bicubic resampling of one axis as a matrix.

    Args:
        size_in, size_out: pixels before and after, at least 1.
    Returns:
        (size_out, size_in) float64 whose rows sum to 1.
    Source: Keys 1981, equation 15 with a = -1/2; support widened by the scale when shrinking, as pillow does.
    """
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    matrix = np.zeros((size_out, size_in))
    for row in range(size_out):
        center = (row + 0.5) * scale
        low = max(int(center - 2 * stretch + 0.5), 0)
        high = min(int(center + 2 * stretch + 0.5), size_in)
        u = np.abs((np.arange(low, high) - center + 0.5) / stretch)
        near = (1.5 * u - 2.5) * u * u + 1
        far = ((-0.5 * u + 2.5) * u - 4) * u + 2
        weights = np.where(u < 1, near, np.where(u < 2, far, 0.0))
        matrix[row, low:high] = weights / weights.sum()
    return matrix


def tf1_resize_matrix(size_in: int, size_out: int) -> npt.NDArray[np.float64]:
    """Bilinear resampling of one axis as TensorFlow 1 had it: pixel i lies at i, so the image moves up and left.

    Args:
        size_in, size_out: pixels before and after, at least 1. Nothing is averaged when shrinking.
    Returns:
        (size_out, size_in) float64 whose rows sum to 1. Positions are float32, as TensorFlow's kernel rounds them.
    Source: tf.compat.v1.image.resize_bilinear with align_corners and half_pixel_centers False.
    """
    position = np.arange(size_out, dtype=np.float32) * np.float32(size_in / size_out)
    low = np.floor(position).astype(np.int64)
    weight = position.astype(np.float64) - low
    matrix = np.zeros((size_out, size_in))
    matrix[np.arange(size_out), low] = 1 - weight
    matrix[np.arange(size_out), np.minimum(low + 1, size_in - 1)] += weight
    return matrix


def resize(images: FloatArray, height: int, width: int) -> npt.NDArray[np.float64]:
    """Antialiased bicubic resize as two matrix products; overshoot is not clipped.

    Args:
        images: (..., H, W, C) float.
        height, width: new size in pixels.
    Returns:
        (..., height, width, C) float64.
    """
    rows, columns = resize_matrix(images.shape[-3], height), resize_matrix(images.shape[-2], width)
    result: npt.NDArray[np.float64] = np.einsum(
        "hi,...ijc,wj->...hwc", rows, np.asarray(images, np.float64), columns, optimize=True
    )
    return result


def shown_as(images: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
    """Images (N, h, w, C') as pictures beside images of another shape.

    Args:
        images: in [0, 1], or around it.
        shape: (H, W, C) of each result.
    Returns:
        (N, H, W, C) in [0, 1], resized; in grey where C and C' differ.
    """
    shown = np.clip(resize(images, *shape[:2]), 0, 1)
    if shown.shape[3] == shape[2]:
        return shown
    return np.broadcast_to(shown.mean(axis=3, keepdims=True), (len(shown), *shape))


def in_strips(images: FloatArray) -> FloatArray:
    """Images as they are shown: of one or three channels as they are, others as their channels from left to right.

    Args:
        images: (N, H, W, C).
    Returns:
        (N, H, W, C) for C of 1 or 3, otherwise (N, H, C W, 1).
    """
    count, height, width, channels = images.shape
    if channels in (1, 3):
        return images
    return images.transpose(0, 1, 3, 2).reshape(count, height, channels * width, 1)


def strip_columns(images: FloatArray, columns: int) -> int:
    """Columns for a sheet of strips that has the shape of a sheet of images with `columns` columns."""
    return max(round(columns / math.sqrt(in_strips(images[:1]).shape[2] / images.shape[2])), 1)


def note_of_strips(channels: int) -> str:
    """The sentence that a caption needs where images are shown as strips; empty for one and three channels."""
    return "" if channels in (1, 3) else f"Each image is shown as its {channels} channels, from left to right."


def grid(images: FloatArray, columns: int | None = None, pad: int = 2) -> FloatArray:
    """Images side by side on white, each as `in_strips` shows it.

    Args:
        images: (N, H, W, C) float in [0, 1].
        columns: images a row; where None, ceil(sqrt(N)), or fewer strips.
        pad: white pixels round every image.
    Returns:
        (rows * (H + pad) + pad, columns * (W + pad) + pad, 1 or 3), dtype of images; W is that of a strip.
    Raises:
        ValueError: no image, not 4-dimensional, columns below 1.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images: shape {images.shape}: must be (N, H, W, C) with N at least 1")
    columns = strip_columns(images, math.ceil(math.sqrt(len(images)))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns = {columns}: must be at least 1")
    images = in_strips(images)
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    sheet = np.ones((rows * (height + pad) + pad, columns * (width + pad) + pad, channels), images.dtype)
    for index, image in enumerate(images):
        top = pad + index // columns * (height + pad)
        left = pad + index % columns * (width + pad)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _picture(image: FloatArray) -> Any:
    """A pillow image, grey or RGB."""
    from PIL import Image

    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3:
        raise ValueError(f"image: shape {image.shape}: must be (H, W) or (H, W, C)")
    pixels = to_uint8(image)
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def save_png(path: str | Path, image: FloatArray) -> None:
    """Write one picture, atomically.

    Args:
        path: file to write; folders are made.
        image: (H, W) or (H, W, C) float in [0, 1]; C other than 1 and 3 shows the first channel, in grey.
    """
    picture = _picture(image)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def save_gif(path: str | Path, frames: Sequence[FloatArray] | FloatArray, milliseconds: int) -> None:
    """Write an endlessly looping animation, atomically.

    Args:
        path: file to write; folders are made.
        frames: (T, H, W, C) float in [0, 1], or a list of (H, W, C).
        milliseconds: time a frame is shown; a multiple of 10, which is all the format can hold.
    Raises:
        ValueError: no frame, or a time that is not a positive multiple of 10.
    """
    if len(frames) == 0:
        raise ValueError("frames: none given; a GIF needs at least 1")
    if milliseconds < 10 or milliseconds % 10:
        raise ValueError(f"milliseconds = {milliseconds}: must be a positive multiple of 10")
    first, *rest = [_picture(frame) for frame in frames]
    write_atomically(
        path,
        lambda temporary: first.save(
            temporary, format="GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0
        ),
    )
