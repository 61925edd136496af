"""Random numbers: one stream for every (seed, purpose, sample, step), the same in each framework, batch and device.

Sample i of seed s has the same x_T and step noise in any batch size. In training, step is the optimiser's step and
sample is the position in the global batch, so that accumulation and ranks change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

PURPOSES = {
    "x_T": 0, "sampler": 1, "training_eps": 2, "training_t": 3, "dropout": 5, "init": 6, "condition_dropout": 9,
    "condition": 10, "likelihood_eps": 11, "likelihood_t": 12, "dequantise": 13, "trace": 14, "edit": 15,
    "device_noise": 16,
    "lens_smooth": 101, "lens_substructure": 102, "lens_noise": 103, "beside_noise": 104, "order": 111, "symmetry": 112,
    "spd": 121,
    "rows": 0,
}  # fmt: skip
"""What is drawn, and its number in the key. A new purpose takes a new number: another number would change the images of
a seed. `rows` (which rows of a set a statistic takes) has the number of x_T; the two never meet in one computation."""


def generator(seed: int, purpose: str, sample: int = 0, step: int = 0) -> np.random.Generator:
    """The random generator of one key, for draws that are neither gaussian() nor integers().

    Args:
        seed, sample, step: in [0, 2^64).
        purpose: a key of PURPOSES; different purposes give independent streams.
    Returns:
        A fresh generator at the start of its stream of 2^130 draws.
    Raises:
        ValueError: unknown purpose, or an integer out of range.
    Source: Salmon et al. 2011, Philox-4x64-10: counter-based, so any key is reached at once.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose = {purpose!r}: must be one of {', '.join(PURPOSES)}")
    for name, value in (("seed", seed), ("sample", sample), ("step", step)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} = {value!r}: must be in [0, 2^64)")
    # As uint64: NumPy turns a list that holds a number above 2^63 into floats and drops its low bits silently.
    key = np.array([seed, sample], dtype=np.uint64)
    counter = np.array([0, 0, step, PURPOSES[purpose]], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def gaussian(
    seed: int,
    purpose: str,
    samples: Sequence[int] | NDArray[np.integer[Any]],
    step: int,
    shape: tuple[int, ...],
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Standard normal noise, one independent draw a sample.

    Args:
        seed, step: in [0, 2^64).
        purpose: a key of PURPOSES.
        samples: indices of the samples, each in [0, 2^64).
        shape: shape of one sample, (H, W, C) for images in every framework.
        dtype: floating type of the result; drawn in float64, then cast.
    Returns:
        (len(samples), *shape), zero mean, unit variance.
    Raises:
        ValueError: unknown purpose, or an integer out of range.
    """
    result = np.empty((len(samples), *shape), dtype=dtype)
    for row, sample in zip(result, samples, strict=True):
        row[...] = generator(seed, purpose, int(sample), step).standard_normal(shape)
    return result


def integers(
    seed: int, purpose: str, samples: Sequence[int] | NDArray[np.integer[Any]], step: int, high: int
) -> NDArray[np.int64]:
    """Uniform integers, one independent draw a sample: training timesteps, class labels.

    Args:
        seed, step: in [0, 2^64).
        purpose: a key of PURPOSES.
        samples: indices of the samples, each in [0, 2^64).
        high: exclusive upper bound, at least 1.
    Returns:
        (len(samples),) int64 in [0, high).
    Raises:
        ValueError: unknown purpose, an integer out of range, or high below 1.
    """
    if high < 1:
        raise ValueError(f"high = {high!r}: must be at least 1")
    return np.array([generator(seed, purpose, int(s), step).integers(high) for s in samples], dtype=np.int64)
