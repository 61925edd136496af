"""The sets of images that `eval pairs` compares: several draws of each image, their mean, and bicubic interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.arrays import read_npy
from core.data.pixels import AROUND_UNIT, to_float
from core.data.sources import open_source
from core.diffusion.measurements import Measurement
from core.images import resize
from core.inference.measuring import read_operator
from core.metrics.pixels import check_images
from core.metrics.restoration import residual_chi_squared
from eval.measure.image_sets import Images, is_run, read_image_set

LEAST = 20
"""Fewest images: the intervals of distances leave out ten groups of two."""
MEAN, DRAW, SINGLE, BICUBIC = "mean of draws", "one draw", "restored", "bicubic"


def read_draws(path: str) -> Images:
    """Draws of each image, (N, K, H, W, C) float32 in [0, 1].

    Args:
        path: draws.npy of shape (N, K, H, W, C), the folder that holds it, or a set of images, which is K = 1.
    Raises:
        ValueError: one line that names the file and what to change.
    """
    place = Path(path)
    file = place / "draws.npy" if (place / "draws.npy").is_file() else place
    if file.suffix == ".npy" and file.is_file():
        values = read_npy(file)
        if values.ndim == 5:
            if values.shape[1] == 0:
                raise ValueError(f"{file}: shape {values.shape}: must be (N, K, H, W, C) with K at least 1")
            check_images(values.reshape(-1, *values.shape[2:]), str(file))
            return values
    return read_files(path, "DRAWS")[:, None]


def read_files(path: str, option: str) -> Images:
    """Images (N, H, W, C) of files, where a run would stand for no known order of images."""

    if is_run(Path(path)):
        raise ValueError(f"{option} {path}: is a run: must be images, one for each true image and in that order")
    return read_image_set(path, "generated", Path).all_images()


def read_inputs(path: str) -> Images:
    """What images were restored from, (N, h, w, C') float32. Noise around [0, 1] is left as it is."""
    if is_run(Path(path)):
        raise ValueError(f"--inputs {path}: is a run: must be images, one for each true image and in that order")
    source = open_source(path)
    return np.stack([to_float(source.read(index)).astype(np.float32) for index in range(len(source.names))])


@dataclass(frozen=True)
class Measured:
    """How the inputs were measured: y = A x + noise."""

    operator: Measurement
    noise: float
    """Standard deviation, in intensity."""

    def chi_squared(self, inputs: Images, images: Images) -> npt.NDArray[np.float64]:
        """Residual chi squared a measured value of (N, M, H, W, C), averaged over the M images; (N,)."""
        valid = np.broadcast_to(self.operator.valid, inputs.shape[1:])
        y, count = np.where(valid, inputs, 0.0), int(valid.sum())
        expected = (self.operator.forward(images[:, m].astype(np.float64)) for m in range(images.shape[1]))
        found = [residual_chi_squared(y, values, self.noise, count) for values in expected]
        return np.asarray(np.mean(found, axis=0))


def read_measurement(operator: str, noise: float, inputs: Images | None, truth: Images) -> Measured | None:
    """The measurement that --operator and --noise name; None without --operator.

    Raises:
        ValueError: one without the other, or inputs of another size than the operator gives.
    """
    if not operator:
        if noise:
            raise ValueError(f"--noise {noise:g}: must come with --operator, of whose residual the chi squared is made")
        return None
    if inputs is None or noise <= 0:
        raise ValueError(f"--operator {operator}: must come with --inputs, the measurements, and a --noise above 0")
    check_images(truth[:1], "TRUTH")
    found = read_operator(operator, (truth.shape[1], truth.shape[2]))
    shape = found.forward(np.asarray(truth[:1], np.float64)).shape[1:]
    if inputs.shape[1:] != shape:
        raise ValueError(f"--inputs: images of {inputs.shape[1:]}: must be {shape}, which --operator {operator} gives")
    return Measured(found, noise)


def check_sets(truth: Images, draws: Images, inputs: Images | None) -> None:
    """Refuse sets that do not fit together."""
    check_images(truth, "TRUTH")
    if len(truth) < LEAST:
        raise ValueError(f"TRUTH: {len(truth)} images: must be at least {LEAST}")
    if draws.shape[:1] + draws.shape[2:] != truth.shape:
        raise ValueError(
            f"DRAWS: {len(draws)} images of {draws.shape[2:]} (height, width, channels): must be {len(truth)} of "
            f"{truth.shape[1:]} as TRUTH, in the same order"
        )
    check_images(draws.reshape(-1, *draws.shape[2:]), "DRAWS")
    if inputs is not None:
        low, high = AROUND_UNIT
        if inputs.ndim != 4 or not (inputs.min() >= low and inputs.max() <= high):
            raise ValueError(f"--inputs: shape {inputs.shape}: must be (N, h, w, C) in [{low:g}, {high:g}]")
        if len(inputs) != len(truth):
            raise ValueError(f"--inputs: {len(inputs)} images: must be {len(truth)} as TRUTH, in the same order")


def bicubic(inputs: Images, size: tuple[int, int]) -> Images:
    """Bicubic interpolation (N, H, W, C) of inputs, clipped to [0, 1]."""
    return np.clip(resize(inputs, *size), 0, 1).astype(np.float32)


def restored_sets(truth: Images, draws: Images, inputs: Images | None) -> dict[str, Images]:
    """What is measured, (N, M, H, W, C) by name."""
    sets = {MEAN: draws.mean(axis=1, keepdims=True), DRAW: draws} if draws.shape[1] > 1 else {SINGLE: draws}
    if inputs is not None and inputs.shape[3] == truth.shape[3]:
        sets[BICUBIC] = bicubic(inputs, truth.shape[1:3])[:, None]
    return sets
