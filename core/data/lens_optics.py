"""The optics of a strong lens: deflections, the light of a source, and the blur of an instrument.

Angles are in arcsec. A source at beta is seen where beta = theta - alpha(theta); alpha is the sum of the deflections.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pair = tuple[Array, Array]

D_L, D_S, D_LS = 1259.08, 1651.91, 707.60
"""Angular diameter distances in Mpc: flat, H0 70, matter .3, redshifts .5 and 1."""

_TINY = 1e-24  # arcsec^2, keeps a ray that hits a singular point finite


def sis(x: Array, y: Array, theta_e: float) -> Pair:
    """Deflection of a singular isothermal sphere: theta_e towards the centre at any radius, in arcsec."""
    scale = theta_e / np.sqrt(x * x + y * y + _TINY)
    return scale * x, scale * y


def sie(x: Array, y: Array, theta_e: float, e1: float, e2: float) -> Pair:
    """Deflection of a singular isothermal ellipsoid, in arcsec.

    Args:
        x, y: rays in arcsec, broadcast against each other.
        theta_e: Einstein radius in arcsec, on the product-average axis.
        e1, e2: ellipticity (1 - q) / (1 + q) times cos, sin of twice the major axis' angle.
    Returns:
        (alpha_x, alpha_y), float64.
    Source: Kormann, Schneider and Bartelmann 1994, equation 27a.
    """
    x, y, q, turn = _principal_axes(x, y, e1, e2)
    # atan(f s) / f is well conditioned down to the smallest f, so this floor is the limit q -> 1, to 1e-18.
    f = max(math.sqrt((1 - q) * (1 + q)), 1e-9)
    psi = np.sqrt(q * q * x * x + y * y + _TINY)
    b = theta_e * math.sqrt(q)
    return _turned(b / f * np.arctan(f * x / psi), b / f * np.arctanh(f * y / psi), turn)


def shear(x: Array, y: Array, gamma1: float, gamma2: float) -> Pair:
    """Deflection of a constant external shear, in arcsec."""
    return gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y


def point_masses(x: Array, y: Array, masses: Array) -> Pair:
    """Deflection of point masses theta^2 r / |r|^2; rows of (K, 3) masses are (x, y, Einstein radius) in arcsec."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    alpha_x, alpha_y = np.zeros(shape), np.zeros(shape)
    for mass_x, mass_y, theta in masses:
        dx, dy = x - mass_x, y - mass_y
        pull = theta * theta / (dx * dx + dy * dy + _TINY)
        alpha_x += pull * dx
        alpha_y += pull * dy
    return alpha_x, alpha_y


def rod(x: Array, y: Array, theta_v: float, half_length: float, angle: float) -> Pair:
    """Deflection of a thin uniform rod through the centre: an axion vortex.

    Args:
        x, y: rays in arcsec.
        theta_v: Einstein radius in arcsec of a point of the rod's mass.
        half_length: in arcsec, above 0.
        angle: of the rod in radians.
    Returns:
        (alpha_x, alpha_y), float64.
    Source: integral of point masses along the rod, conj[(theta_v^2 / 2L) ln((z + L) / (z - L))] in its own frame; real
        and imaginary parts of the logarithm are written out because a complex one is four times slower.
    """
    c, s, length = math.cos(angle), math.sin(angle), half_length
    x, y = c * x + s * y, c * y - s * x
    yy = y * y + _TINY
    scale = theta_v * theta_v / (2 * length)
    along = 0.5 * scale * np.log(((x + length) ** 2 + yy) / ((x - length) ** 2 + yy))
    across = scale * np.arctan2(2 * length * y, x * x + yy - length * length)
    return _turned(along, across, angle)


def sersic(x: Array, y: Array, amplitude: float, r_e: float, n: float, e1: float, e2: float) -> Array:
    """Surface brightness of a Sersic source centred at the origin; amplitude is that at r_e (arcsec).

    Source: Sersic 1968 with b_n = 1.9992 n - .3271 (Capaccioli 1989), radius on the product-average ellipse.
    """
    x, y, q, _ = _principal_axes(x, y, e1, e2)
    squared = (q * x * x + y * y / q) / (r_e * r_e)
    radius = np.sqrt(squared) if n == 1 else squared ** (0.5 / n)
    brightness: Array = amplitude * np.exp((1.9992 * n - 0.3271) * (1 - radius))
    return brightness


def einstein_radius(solar_masses: float) -> float:
    """Einstein radius in arcsec of a point mass at the presets' redshifts."""
    return 206265 * math.sqrt(4 * 4.7867e-20 * solar_masses * D_LS / (D_L * D_S))


def _principal_axes(x: Array, y: Array, e1: float, e2: float) -> tuple[Array, Array, float, float]:
    """Coordinates along the axes of an ellipse, its axis ratio and the angle of its major axis."""
    e = math.hypot(e1, e2)
    angle = 0.5 * math.atan2(e2, e1)
    c, s = math.cos(angle), math.sin(angle)
    return c * x + s * y, c * y - s * x, (1 - e) / (1 + e), angle


def _turned(x: Array, y: Array, angle: float) -> Pair:
    """A vector rotated by an angle."""
    c, s = math.cos(angle), math.sin(angle)
    return c * x - s * y, s * x + c * y


def blur_matrix(size: int, factor: int, pixel: float, sigma: float) -> Array:
    """One axis of the instrument: Gaussian blur on the fine grid, then averaging over pixels.

    Args:
        size: pixels of the image.
        factor: rays a pixel.
        pixel: side of a pixel in arcsec.
        sigma: of the point spread function in arcsec.
    Returns:
        (size, size * factor) float64 whose rows sum to 1: what would come from outside is taken from the edge.
    """
    fine = pixel / factor
    reach = math.ceil(5 * sigma / fine)
    # Integrated over the fine pixel: point samples are off by 6 % where the blur is as narrow as a pixel.
    edges = [math.erf((k - 0.5) * fine / (sigma * math.sqrt(2))) for k in range(-reach, reach + 2)]
    taps = np.diff(edges) / (edges[-1] - edges[0])
    matrix = np.zeros((size, size * factor))
    for position in range(size * factor):
        reached = np.clip(np.arange(position - reach, position + reach + 1), 0, size * factor - 1)
        np.add.at(matrix[position // factor], reached, taps / factor)
    return matrix
