"""Feature extractors: functions from NumPy images to NumPy features by tap. Twin: torch_impl/extractors.py."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from core.extractors.features import Extractor
from tf_impl.device import pick_device
from tf_impl.inception import Inception, prepare
from tf_impl.lens_extractor import make_lens_extractor


def inception_extractor(weights: Mapping[str, np.ndarray], resize: str, dtype: str, device: str) -> Extractor:
    """The Inception extractor; see make_extractor()."""
    with tf.device(pick_device(device, dtype)):
        network = Inception(weights, dtype)

    @functools.cache
    def compiled(image_shape: tuple[int, ...]) -> Any:
        """The graph for one image size and any batch size."""
        signature = [tf.TensorSpec((None, *image_shape), dtype)]
        return tf.function(lambda x: network(prepare(x, resize)), signature, autograph=False)

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        features = compiled(images.shape[1:])(tf.constant(images, dtype))
        return {tap: value.numpy() for tap, value in features.items()}

    return extract


def lens_extractor(weights: Mapping[str, np.ndarray], resize: str, dtype: str, device: str) -> Extractor:
    """The lens extractor; see make_extractor(). It resizes images in one way only and does not read `resize`."""
    return make_lens_extractor(weights, dtype, device)


EXTRACTORS = {"lens": lens_extractor, "inception": inception_extractor}


def make_extractor(
    name: str, weights: Mapping[str, np.ndarray], resize: str, dtype: str = "float32", device: str = "auto"
) -> Extractor:
    """An extractor by name.

    Args:
        name: a key of core.extractors.features.EXTRACTORS.
        weights: its parameters by canonical name.
        resize: clean or legacy, for inception.
        dtype: float32 or float64.
        device: where to compute; see pick_device().
    Returns:
        A function from images (B, H, W, C), float in [0, 1], to features (B, d) of `dtype` by tap. It raises
        MemoryError where the batch does not fit into memory.
    Raises:
        ValueError: the weights are not those of the extractor.
    """
    place = pick_device(device, dtype)
    extract = EXTRACTORS[name](weights, resize, dtype, device)

    def extractor(images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            with tf.device(place):
                return extract(images)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(str(error)) from error

    return extractor
