"""Feature extractors: functions from NumPy images to NumPy features by tap. Twin: tf_impl/extractors.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from core.extractors.features import Extractor
from torch_impl.device import pick_device
from torch_impl.inception import Inception, prepare
from torch_impl.lens_extractor import make_lens_extractor


def inception_extractor(weights: Mapping[str, np.ndarray], resize: str, dtype: str, device: str) -> Extractor:
    """The Inception extractor; see make_extractor()."""
    place = pick_device(device, dtype)
    network = Inception(weights, dtype).to(place)

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        x = prepare(torch.from_numpy(images).to(place, getattr(torch, dtype)), resize)
        return {tap: value.cpu().numpy() for tap, value in network(x).items()}

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
    extract = EXTRACTORS[name](weights, resize, dtype, device)

    @torch.inference_mode()
    def extractor(images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            return extract(images)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            if "DefaultCPUAllocator" in str(error):  # main memory; this error has no class of its own
                raise MemoryError(str(error)) from error
            raise

    return extractor
