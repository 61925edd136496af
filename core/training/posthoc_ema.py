"""Averages of the weights of any length after training, from snapshots of a few that were tracked while it ran.

The average at step t of profile gamma weighs step tau by (gamma + 1) tau^gamma / t^(gamma + 1), and sigma_rel, the deviation of that
density relative to t, names it. Float64 NumPy; imports no framework.
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
    """The exponent of a profile.

    Args:
        sigma_rel: in (0, 1 / sqrt(12)).
    Raises:
        ValueError: out of range.
    Source: their eq. 3 and 126: sigma_rel^2 (gamma + 2)^2 (gamma + 3) = gamma + 1, its one root above 0.
    """
    if not 0 < sigma_rel < WIDEST_PROFILE:
        raise ValueError(f"sigma_rel = {sigma_rel!r}: must be above 0 and below 0.2887")
    roots = np.roots([1, 7, 16 - sigma_rel**-2, 12 - sigma_rel**-2])
    return float(roots.real.max())


def profile_decay(sigma_rel: float, step: int) -> float:
    """Decay d of a profile after a step (0-based): average = d * average + (1 - d) * weights.

    Source: their eq. 2: (1 - 1 / t)^(gamma + 1) with t = step + 1; 0 at the first step, so that the initial weights do not count.
    """
    return float((1 - 1 / (step + 1)) ** (gamma_of(sigma_rel) + 1))


def inner_products(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> Array:
    """Inner products of densities, each given as (t, gamma): (len(a), len(b)).

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
    """What each snapshot is multiplied by to be nearest to a profile, in the mean square over steps.

    Args:
        snapshots: (steps done, sigma_rel) of each.
        step: at whose end the wanted profile stands: the last snapshot's or earlier.
        sigma_rel: of the wanted profile.
    Returns:
        (len(snapshots),); of sum near 1.
    Raises:
        ValueError: no snapshots, or none as late as `step`.
    Source: their eq. 17 and algorithm 3.
    """
    if not snapshots or max(t for t, _ in snapshots) < step:
        last = max((t for t, _ in snapshots), default=0)
        raise ValueError(f"step = {step}: must be at most {last}, the last step with a snapshot of the averages")
    given = [(float(t), gamma_of(sigma)) for t, sigma in snapshots]
    gram, wanted = inner_products(given, given), inner_products(given, [(float(step), gamma_of(sigma_rel))])[:, 0]
    scale = 1 / np.sqrt(
        np.diag(gram)
    )  # densities of unit length: early ones are a thousand times larger than late ones
    solution = np.linalg.lstsq(scale[:, None] * gram * scale, scale * wanted, rcond=None)[0]
    return solution * scale


def synthesise(
    snapshots: Sequence[tuple[int, float, Mapping[str, np.ndarray]]], step: int, sigma_rel: float
) -> Weights:
    """The averaged weights of a profile that need not have been tracked.

    Args:
        snapshots: (steps done, sigma_rel, weights by name) of each.
        step, sigma_rel: as coefficients().
    Returns:
        Weights summed in float64, in the snapshots' type.
    """
    shares = coefficients([(t, sigma) for t, sigma, _ in snapshots], step, sigma_rel)
    names = snapshots[0][2]
    sums = {
        name: sum(c * weights[name].astype(np.float64) for c, (_, _, weights) in zip(shares, snapshots, strict=True))
        for name in names
    }
    return {name: np.asarray(value, names[name].dtype) for name, value in sums.items()}
