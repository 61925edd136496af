"""How images enter Inception: brought to 299x299 pixels by one of two rules, and into its range.

Both twins resize by the two matrices that are made here.
"""

from __future__ import annotations

import numpy as np

from core.images import resize_matrix, tf1_resize_matrix

INPUT_SIZE = 299

RESIZES = {"clean": resize_matrix, "legacy": tf1_resize_matrix}
"""clean: antialiased bicubic, as clean-fid; legacy: TensorFlow 1's bilinear, as the graph and torch-fidelity."""

INPUT_SCALE = 255 / 128
"""Images x in [0, 1] enter as x * INPUT_SCALE - 1: the graph's own (255 x - 128) / 128, without rounding to 8 bits.

torch-fidelity and clean-fid have the same rule; pytorch-fid has 2 x - 1, so white is 1 there and 127 / 128 here.
"""


def check_channels(channels: int) -> None:
    """Raise ValueError where the network does not take images with this number of channels."""
    if channels not in (1, 3):
        raise ValueError(
            f"images: {channels} channels; Inception takes 3, or 1 that is repeated to three; choose channels, "
            "or measure them with `python -m eval fid --extractor pixels`"
        )


def input_matrices(image_shape: tuple[int, ...], resize: str) -> tuple[np.ndarray, np.ndarray]:
    """What brings an image to the network's size: rows @ image @ columns.T, a channel at a time, float64.

    Args:
        image_shape: (H, W, C); C is 3, or 1 for grey, which is repeated to three.
        resize: a key of RESIZES. Overshoot of the bicubic is not clipped, as in clean-fid.
    Returns:
        (299, H) and (299, W).
    Raises:
        ValueError: another number of channels or an unknown resize.
    """
    height, width, channels = image_shape
    check_channels(channels)
    if resize not in RESIZES:
        raise ValueError(f"resize = {resize!r}: must be one of {', '.join(RESIZES)}")
    return RESIZES[resize](height, INPUT_SIZE), RESIZES[resize](width, INPUT_SIZE)
