"""Averages of the weights over any length, computed after training from snapshots of a few tracked averages.

At step t the average with exponent gamma, called its profile, weighs step tau by
(gamma + 1) tau^gamma / t^(gamma + 1). A profile is named by sigma_rel, the standard deviation of that density divided
by t. All is float64 NumPy.
Source: Karras et al. 2024, Analyzing and Improving the Training Dynamics of Diffusion Models, section 3 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from core.config import WIDEST_PROFILE

Array = NDArray[np.float64]
Weights = dict[str, np.ndarray]


def gamma_of(sigma_rel: float) -> float:
    """The exponent gamma of a profile.

    Args:
        sigma_rel: name of the profile, in (0, 1 / sqrt(12)).
    Raises:
        ValueError: sigma_rel is out of range.
    Source: their eq. 3 and 126: sigma_rel^2 (gamma + 2)^2 (gamma + 3) = gamma + 1, its one root above 0.
    """
    if not 0 < sigma_rel < WIDEST_PROFILE:
        raise ValueError(f"sigma_rel = {sigma_rel!r}: must be above 0 and below 0.2887")
    roots = np.roots([1, 7, 16 - sigma_rel**-2, 12 - sigma_rel**-2])
    return float(roots.real.max())


def profile_decay(sigma_rel: float, step: int) -> float:
    """Decay d of a profile after a step (0-based): average = d * average + (1 - d) * weights.

    Source: their eq. 2: (1 - 1 / t)^(gamma + 1) with t = step + 1. It is 0 at the first step, so that the initial
        weights do not count.
    """
    return float((1 - 1 / (step + 1)) ** (gamma_of(sigma_rel) + 1))


def inner_products(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> Array:
    """Inner products (len(a), len(b)) of two lists of densities, each given as (t, gamma).

    Source: integral over [0, min(t_a, t_b)] of the product, with s the earlier and e the later:
        (gamma_s + 1) (gamma_e + 1) / (gamma_s + gamma_e + 1) (t_s / t_e)^gamma_e / t_e.
    """
    (ta, ga), (tb, gb) = (np.array(pairs, np.float64).T for pairs in (a, b))
    ta, ga = ta[:, None], ga[:, None]
    later = np.where(ta > tb, ga, gb)
    ratio = np.minimum(ta, tb) / np.maximum(ta, tb)
    products: Array = (ga + 1) * (gb + 1) / (ga + gb + 1) * ratio**later / np.maximum(ta, tb)
    return products


def coefficients(snapshots: Sequence[tuple[int, float]], step: int, sigma_rel: float) -> Array:
    """The coefficients of the sum of snapshots that is nearest to a profile, in the mean square over steps.

    Args:
        snapshots: (steps done, sigma_rel) of each snapshot.
        step: step at which the wanted profile ends, at most the last snapshot's.
        sigma_rel: name of the wanted profile.
    Returns:
        (len(snapshots),); the sum is near 1.
    Raises:
        ValueError: there is no snapshot, or none as late as `step`.
    Source: their eq. 17 and algorithm 3.
    """
    if not snapshots or max(t for t, _ in snapshots) < step:
        last = max((t for t, _ in snapshots), default=0)
        raise ValueError(f"step = {step}: must be at most {last}, the last step with a snapshot of the averages")
    given = [(float(t), gamma_of(sigma)) for t, sigma in snapshots]
    gram, wanted = inner_products(given, given), inner_products(given, [(float(step), gamma_of(sigma_rel))])[:, 0]
    # Densities of unit length: early ones are a thousand times larger than late ones.
    scale = 1 / np.sqrt(np.diag(gram))
    solution = np.linalg.lstsq(scale[:, None] * gram * scale, scale * wanted, rcond=None)[0]
    return solution * scale


def synthesise(
    snapshots: Sequence[tuple[int, float, Mapping[str, np.ndarray]]], step: int, sigma_rel: float
) -> Weights:
    """The averaged weights of a profile, which need not have been tracked during training.

    Args:
        snapshots: (steps done, sigma_rel, weights by name) of each snapshot.
        step, sigma_rel: as in coefficients().
    Returns:
        Weights by name, summed in float64 and cast to the snapshots' dtype.
    """
    shares = coefficients([(t, sigma) for t, sigma, _ in snapshots], step, sigma_rel)
    names = snapshots[0][2]
    sums = {
        name: sum(c * weights[name].astype(np.float64) for c, (_, _, weights) in zip(shares, snapshots, strict=True))
        for name in names
    }
    return {name: np.asarray(value, names[name].dtype) for name, value in sums.items()}
