"""Inception Score: the exponential of the mutual information of image and class, as a classifier sees them.

It looks at generated images alone. It says little of images that belong to none of the classifier's classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from core.metrics.moments import FloatArray, check_features


class InceptionScore(NamedTuple):
    """Over the splits."""

    mean: float
    """In [1, number of classes]."""
    std: float
    """Divisor the number of splits, as the peers have it; 0 for one split."""


def _score(probabilities: FloatArray) -> float:
    """exp(mean KL(p(y|x) || p(y))), as exp(H(y) - H(y|x)): 0 log 0 is 0 in both, so a class never seen is no matter."""
    marginal = scipy.special.entr(probabilities.mean(axis=0)).sum()
    return float(np.exp(marginal - scipy.special.entr(probabilities).sum(axis=1).mean()))


def inception_score(logits: npt.ArrayLike, splits: int = 10, seed: int | None = None) -> InceptionScore:
    """Inception Score of a set of images, from the logits of the classifier.

    Splits are consecutive rows, [i n / splits] up to [(i + 1) n / splits]. Rows that are in an order, such as by class,
    must be shuffled first: each split must look like the whole set. More splits give a lower score.

    Args:
        logits: (n, classes), before the softmax, n >= splits.
        splits: parts of which each gets a score.
        seed: None keeps the rows' order; an integer in [0, 2^32) shuffles them first, as torch-fidelity (0.4.0) does,
            with NumPy's legacy generator, so that its default, 2020, gives its numbers.
    Returns:
        Mean and standard deviation over the splits.
    Raises:
        ValueError: wrong shape, fewer rows than splits, a value that is not finite, or an integer out of range.
    Source: Salimans et al. 2016, section 4; Barratt & Sharma 2018 (splits).
    """
    if splits < 1:
        raise ValueError(f"splits = {splits}: must be at least 1")
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed}: must be in [0, 2^32), or None")
    rows = check_features(logits, "logits", least=splits)
    if seed is not None:
        rows = rows[np.random.RandomState(seed).permutation(len(rows))]
    probabilities = scipy.special.softmax(rows, axis=1)
    edges = np.arange(splits + 1) * len(rows) // splits
    scores = [_score(probabilities[low:high]) for low, high in pairwise(edges)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))
