"""Simulated strong gravitational lenses.

A source at beta is seen where beta = theta - alpha(theta). Angles are in arcsec from the centre of the image, x along
columns, y along rows. Image i of a seed is a pure function of (preset, seed, i, classes, size, field of view): it does
not depend on how many images are made or in which order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.lens_optics import blur_matrix, einstein_radius, point_masses, rod, sersic, shear, sie, sis
from core.random import generator
from core.reading import check_memory

Array = npt.NDArray[np.float64]

PRESETS = ("lensing", "model-1")
CLASSES = ("no", "sphere", "vort")
FINEST_PIXEL = 0.05
"""Largest pixel in arcsec that is traced with a single ray; a larger one averages over a finer grid."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of one image; angles in arcsec and radians. Absent substructure has zeros."""

    theta_e: float
    lens_e1: float
    lens_e2: float
    gamma1: float
    gamma2: float
    source_x: float
    source_y: float
    source_e1: float
    source_e2: float
    source_r_e: float
    source_n: float
    source_amplitude: float
    exposure: float
    """Photons counted a unit of brightness."""
    subhalo_theta: float = 0.0
    """Einstein radius of all subhaloes together."""
    vortex_theta: float = 0.0
    vortex_half_length: float = 0.0
    vortex_angle: float = 0.0


def _draw_smooth(preset: str, rng: np.random.Generator) -> Parameters:
    """Lens, shear, source and exposure."""
    u = rng.random(8)
    if preset == "model-1":
        return Parameters(
            theta_e=1.28, lens_e1=0.1, lens_e2=0.0, gamma1=0.05, gamma2=0.0,
            source_x=0.7 * u[0] - 0.35, source_y=0.7 * u[1] - 0.35, source_e1=-0.1, source_e2=0.1,
            source_r_e=0.25, source_n=1.0, source_amplitude=20.0, exposure=10 ** (3 + 0.5 * u[2]),
        )  # fmt: skip
    q, tilt, offset, bearing = 0.7 + 0.3 * u[3], math.pi * u[4], 0.5 * u[5], 2 * math.pi * u[6]
    e = (1 - q) / (1 + q)
    return Parameters(
        theta_e=0.9 + 0.6 * u[0], lens_e1=0.0, lens_e2=0.0, gamma1=0.25 * u[1], gamma2=0.0,
        source_x=offset * math.cos(bearing), source_y=offset * math.sin(bearing),
        source_e1=e * math.cos(2 * tilt), source_e2=e * math.sin(2 * tilt),
        source_r_e=0.40, source_n=1.3, source_amplitude=0.7 + 0.2 * u[2], exposure=300.0,
    )  # fmt: skip


def _draw_substructure(
    preset: str, kind: str, smooth: Parameters, rng: np.random.Generator
) -> tuple[Parameters, Array]:
    """Parameters completed, and the point masses (K, 3)."""
    none = np.zeros((0, 3))
    if kind == "vort":
        angle, exponent = float(rng.random()), float(rng.random())
        theta, length = 0.1 * smooth.theta_e, 0.5
        if preset == "model-1":
            theta, length = einstein_radius(3e10), 0.06e-22 / (2 * 10 ** (2 * exponent - 24))
        vortex = {"vortex_theta": theta, "vortex_half_length": length, "vortex_angle": math.pi * angle}
        return dataclasses.replace(smooth, **vortex), none
    if kind == "sphere":
        r, turn, u = rng.random((3, 25))
        bearing = 2 * math.pi * turn
        if preset == "model-1":
            r, low, high = 0.25 + 1.75 * r, 1e6**-0.9, 1e10**-0.9  # dN/dm ~ m^-1.9 inverted
            thetas = einstein_radius(1.0) * np.sqrt((low + u * (high - low)) ** (-1 / 0.9))
        else:
            r, thetas = smooth.theta_e * r, np.full(25, math.sqrt(0.01 / 25) * smooth.theta_e)
        masses = np.stack([r * np.cos(bearing), r * np.sin(bearing), thetas], axis=1)
        return dataclasses.replace(smooth, subhalo_theta=math.sqrt(float(np.sum(thetas**2)))), masses
    return smooth, none


def brightness(x: Array, y: Array, p: Parameters, masses: Array) -> Array:
    """Lensed source at rays x, y (arcsec), before blur and noise; masses as `point_masses` takes them."""
    ax, ay = sie(x, y, p.theta_e, p.lens_e1, p.lens_e2) if p.lens_e1 or p.lens_e2 else sis(x, y, p.theta_e)
    deflections = [(ax, ay), shear(x, y, p.gamma1, p.gamma2)]
    if len(masses):
        deflections.append(point_masses(x, y, masses))
    if p.vortex_theta:
        deflections.append(rod(x, y, p.vortex_theta, p.vortex_half_length, p.vortex_angle))
    beta_x = x - sum(d[0] for d in deflections) - p.source_x
    beta_y = y - sum(d[1] for d in deflections) - p.source_y
    return sersic(beta_x, beta_y, p.source_amplitude, p.source_r_e, p.source_n, p.source_e1, p.source_e2)


def _noisy(preset: str, image: Array, exposure: float, rng: np.random.Generator) -> Array:
    """Photon counts, then min-max of the image."""
    if preset == "lensing":
        image = rng.poisson(exposure * (image + 0.1)) / exposure - 0.1
    else:
        image = rng.poisson(exposure * np.maximum(image + rng.normal(0, 0.01, image.shape), 0)).astype(np.float64)
    low, high = float(image.min()), float(image.max())
    if high <= low:
        raise ValueError("field_of_view: the image shows no light; show more of the lens")
    stretched: Array = (image - low) / (high - low)
    return stretched


def simulator(
    preset: str,
    size: tuple[int, int],
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    field_of_view: float = 7.5,
    change: Callable[[Parameters], Parameters] | None = None,
) -> Callable[[int], tuple[npt.NDArray[np.float32], int, Parameters]]:
    """A function from an image's index to (image (H, W, 1) float32 in [0, 1], label, parameters).

    Args:
        preset: lensing or model-1.
        size: (H, W) in pixels.
        seed: in [0, 2^63).
        classes: among no, sphere, vort; image i is of class i mod K.
        field_of_view: shorter side in arcsec.
        change: applied to lens and source as drawn, before substructure and noise; it makes images with a known fault.
    Raises:
        ValueError: an argument outside these.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset = {preset!r}: must be one of {', '.join(PRESETS)}")
    if not classes or not set(classes) <= set(CLASSES) or len(set(classes)) < len(classes):
        raise ValueError(f"classes = {tuple(classes)}: must be one or more of {', '.join(CLASSES)}, each once")
    if min(size) < 2:
        raise ValueError(f"size = {size}: height and width must be at least 2 pixels")
    if not (field_of_view > 0 and math.isfinite(field_of_view)):
        raise ValueError(f"field_of_view = {field_of_view}: must be above 0 arcsec")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed = {seed}: must be in [0, 2^63)")
    pixel = field_of_view / min(size)
    factor = max(1, math.ceil(pixel / FINEST_PIXEL - 1e-9))
    sigma = 0.1 if preset == "lensing" else 0.087 / math.sqrt(8 * math.log(2))
    rows, columns = (blur_matrix(side, factor, pixel, sigma) for side in size)
    y, x = (pixel / factor * (np.arange(side * factor, dtype=np.float64) + 0.5 - side * factor / 2) for side in size)

    def draw(index: int) -> tuple[npt.NDArray[np.float32], int, Parameters]:
        label = index % len(classes)
        smooth = _draw_smooth(preset, generator(seed, "lens_smooth", index))
        smooth = change(smooth) if change is not None else smooth
        rng = generator(seed, "lens_substructure", index)
        parameters, masses = _draw_substructure(preset, classes[label], smooth, rng)
        traced = np.empty((y.size, x.size))  # (H factor, W factor)
        for top in range(0, y.size, 16):  # temporaries that stay in the cache: half the time for class no
            traced[top : top + 16] = brightness(x[None, :], y[top : top + 16, None], parameters, masses)
        # Plain einsum, not `@`: BLAS threads cost far more than they give in products this small.
        image: Array = np.einsum("iw,jw->ij", np.einsum("ih,hw->iw", rows, traced), columns)  # (H, W)
        image = _noisy(preset, image, parameters.exposure, generator(seed, "lens_noise", index))
        return image[..., None].astype(np.float32), label, parameters

    return draw


def simulate(
    preset: str,
    count: int,
    size: tuple[int, int],
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    field_of_view: float = 7.5,
    dtype: npt.DTypeLike = np.float32,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    change: Callable[[Parameters], Parameters] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], dict[str, Array]]:
    """Simulated lenses with their labels and true parameters.

    Args:
        count: number of images, at least 1.
        dtype: of the images, float.
        progress: wraps the range of indices, as tqdm does.
        preset, size, seed, classes, field_of_view, change: see `simulator`.
    Returns:
        images (N, H, W, 1) in [0, 1], labels (N,) int64, parameters {name of a field of Parameters: (N,) float64}.
    Raises:
        ValueError: an argument outside its range.
    """
    if count < 1:
        raise ValueError(f"count = {count}: must be at least 1")
    check_memory(f"{count} images of {size[0]} x {size[1]}", count * size[0] * size[1] * np.dtype(dtype).itemsize)
    draw = simulator(preset, size, seed, classes, field_of_view, change)
    images = np.empty((count, *size, 1), dtype)
    labels = np.empty(count, np.int64)
    parameters = {field.name: np.empty(count) for field in dataclasses.fields(Parameters)}
    for index in progress(range(count)):
        images[index], labels[index], drawn = draw(index)
        for name, values in parameters.items():
            values[index] = getattr(drawn, name)
    return images, labels, parameters
