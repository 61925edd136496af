"""Drawing images from a trained network: keyed noise, batches that do not change the result, and the files written.

A twin supplies the executor (`Sampler`); this module imports no framework.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.checkpoints.trained import Source
from core.command_line import RunError
from core.config import SamplingConfig
from core.diffusion.samplers import steps_of
from core.diffusion.table import Edit, SamplingTable
from core.files import file_hash, write_json, write_npy
from core.images import grid, save_gif, save_png, to_unit
from core.inference.conditioning import Condition
from core.random import gaussian

logger = logging.getLogger(__name__)

Callback = Callable[[int, np.ndarray], None]


class Sampler(Protocol):
    """A twin's executor of sampling tables."""

    def __call__(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        condition: Condition | None = None,
        callback: Callback | None = None,
        edit: Edit | None = None,
        weak: Condition | None = None,
        guide: Any = None,
    ) -> np.ndarray:
        """Run a table: x_T, noise(row) and the result are (B, H, W, C).

        The callback gets (row, predicted image); `edit` gets (row, state after it) and returns the state to go on from.
        In guided rows the same network, or that of the executor `guide`, is evaluated once more under `weak`.
        """
        ...


def draw(
    sampler: Sampler,
    table: SamplingTable,
    shape: tuple[int, int, int],
    seed: int,
    samples: Sequence[int],
    batch_size: int,
    dtype: str = "float32",
    condition: Condition | None = None,
    callback: Callback | None = None,
    weak: Condition | None = None,
    guide: Sampler | None = None,
) -> np.ndarray:
    """Draw images; sample i of a seed is the same image whatever the batch size, range or framework.

    Args:
        sampler: a twin's executor.
        table: the sampling table.
        shape: (H, W, C).
        seed: of the noise.
        samples: indices of the images to draw.
        batch_size: images at a time.
        dtype: float32 or float64.
        condition: arrays of len(samples) rows, by name.
        callback: called after each evaluation with its row and the predicted images (B, H, W, C) of that batch.
        weak: as condition, for the weak evaluations of guided rows.
        guide: the executor of the network that is evaluated there; the same one where None.
    Returns:
        (len(samples), H, W, C) in [0, 1], clipped.
    Raises:
        ValueError: a guided table without `weak`.
        RunError: an image is not finite.
    """
    guided = table.network_evaluations > table.nfe
    if guided and weak is None:
        raise ValueError("sampling.guidance: must be 1 where there is nothing weaker to move away from")
    images = np.empty((len(samples), *shape), dtype)
    for start in range(0, len(samples), batch_size):
        part = slice(start, start + batch_size)
        chosen = list(samples[part])

        def noise(row: int, chosen: list[int] = chosen) -> np.ndarray:
            return gaussian(seed, "sampler", chosen, row, shape, dtype)

        x_T = gaussian(seed, "x_T", chosen, 0, shape, dtype)
        more: dict[str, Any] = {"weak": _rows(weak, part), "guide": guide} if guided and weak is not None else {}
        images[part] = sampler(table, x_T, noise, _rows(condition or {}, part), callback, **more)
    return finished(images)


def finished(images: np.ndarray) -> np.ndarray:
    """What an executor returned, (N, H, W, C), in [0, 1] and clipped.

    Raises:
        RunError: an image is not finite.
    """
    broken = int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
    if broken:
        raise RunError(
            f"{broken} of {len(images)} images have values that are not finite: the weights have diverged; "
            "use an earlier checkpoint, or train again with a lower training.learning_rate"
        )
    return to_unit(images)


def _rows(condition: Condition, part: slice) -> Condition:
    return {name: value[part] for name, value in condition.items()}


def denoising_frames(row: int, rows: int, x_0: np.ndarray, frames: list[np.ndarray], wanted: int = 25) -> None:
    """Keep the predicted images of about `wanted` evenly spaced rows, of the first batch's first 16."""
    if len(frames) <= wanted and (row * wanted // rows != (row - 1) * wanted // rows or row == rows - 1):
        frames.append(grid(to_unit(x_0[:16])))


def write_samples(
    out: Path,
    images: np.ndarray,
    frames: list[np.ndarray],
    manifest: dict[str, Any],
    picture: np.ndarray | None = None,
) -> None:
    """Write samples.npy (float32, (N, H, W, C), [0, 1]), grid.png, manifest.json and, with frames, denoising.gif.

    grid.png is `picture`, or a grid of the first 64 images where None.
    """
    write_npy(out / "samples.npy", images.astype(np.float32))
    save_png(out / "grid.png", grid(images[:64].astype(np.float32)) if picture is None else picture)
    if frames:
        save_gif(out / "denoising.gif", [*frames, *frames[-1:] * 8], 80)
    write_json(out / "manifest.json", manifest)


def sample_manifest(source: Source, sampling: SamplingConfig, table: SamplingTable, started: float) -> dict[str, Any]:
    """The part of manifest.json that says which network and method made the images."""
    return {
        "checkpoint": str(source.weights_files[0].parent),
        "weights_sha256": file_hash(*source.weights_files),
        **{name: value for name, value in dataclasses.asdict(sampling).items() if name != "batch_size"},
        "steps": steps_of(sampling),
        "nfe": table.nfe,
        "network_evaluations": table.network_evaluations,
        "batch_size": sampling.batch_size,
        "dtype": source.dtype,
        "data_sha256": source.data.get("sha256"),
        "seconds": round(time.monotonic() - started, 3),
    }
