"""Feature extractors: functions from NumPy images to NumPy features by tap. Twin: tf_impl/extractors.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from core.extractors.features import Extractor
from torch_impl.inception import Inception, prepare
from torch_impl.lens_extractor import make_lens_extractor


def inception_extractor(weights: Mapping[str, np.ndarray], resize: str, dtype: str) -> Extractor:
    """The Inception extractor, on a GPU where there is one; see make_extractor()."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Inception(weights, dtype).to(device)

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        x = prepare(torch.from_numpy(images).to(device, getattr(torch, dtype)), resize)
        return {tap: value.cpu().numpy() for tap, value in network(x).items()}

    return extract


def lens_extractor(weights: Mapping[str, np.ndarray], resize: str, dtype: str) -> Extractor:
    """The lens extractor; see make_extractor(). It resizes images in one way only and does not read `resize`."""
    return make_lens_extractor(weights, dtype)


EXTRACTORS = {"lens": lens_extractor, "inception": inception_extractor}


def make_extractor(name: str, weights: Mapping[str, np.ndarray], resize: str, dtype: str = "float32") -> Extractor:
    """An extractor by name.

    Args:
        name: a key of core.extractors.features.EXTRACTORS.
        weights: its parameters by canonical name.
        resize: clean or legacy, for inception.
        dtype: float32 or float64.
    Returns:
        A function from images (B, H, W, C), float in [0, 1], to features (B, d) of `dtype` by tap. It raises
        MemoryError where the batch does not fit into memory.
    Raises:
        ValueError: the weights are not those of the extractor.
    """
    extract = EXTRACTORS[name](weights, resize, dtype)

    @torch.inference_mode()
    def extractor(images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            # TF32, PyTorch's default for convolutions on a GPU, keeps 10 bits of the mantissa.
            with torch.backends.cudnn.flags(allow_tf32=False):
                return extract(images)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            if "DefaultCPUAllocator" in str(error):  # main memory; this error has no class of its own
                raise MemoryError(str(error)) from error
            raise

    return extractor
