"""The files of drawn images: samples.npy, grid.png, manifest.json and denoising.gif."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from core.checkpoints.trained import Trained
from core.config import SamplingConfig
from core.diffusion.samplers import steps_of
from core.diffusion.table import SamplingTable
from core.files import file_hash, write_json, write_npy
from core.images import grid, save_gif, save_png, to_unit
from core.inference.space import SPACES, Space

FRAMES = 25


class Film:
    """A progress bar over network evaluations, which can keep the predicted images of the first batch as frames.

    Args:
        table: the sampling table.
        batches: number of batches.
        wanted: whether to keep some 25 evenly spaced frames of the first 16 images.
        stretch: process.stretch.
    """

    def __init__(self, table: SamplingTable, batches: int, wanted: bool, stretch: float = 0.0) -> None:
        from tqdm import tqdm

        self.rows, self.wanted, self.stretch = table.nfe, wanted, stretch
        self.frames: list[np.ndarray] = []
        self.bar = tqdm(total=batches * table.nfe, desc="sample", unit="eval", dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def after(self, row: int, x: np.ndarray, x_0: np.ndarray) -> np.ndarray:
        """The hook after each row; it returns x unchanged."""
        if self.wanted and self.bar.n < self.rows:
            spaced = row * FRAMES // self.rows != (row - 1) * FRAMES // self.rows
            if len(self.frames) <= FRAMES and (spaced or row == self.rows - 1):
                self.frames.append(grid(to_unit(x_0[:16], self.stretch)))
        self.bar.update()
        return x


def write_samples(
    out: Path,
    images: np.ndarray,
    frames: list[np.ndarray],
    manifest: dict[str, Any],
    picture: np.ndarray | None = None,
    space: Space = SPACES["image"],
) -> None:
    """Write samples.npy, grid.png, manifest.json and, where there are frames, denoising.gif.

    Args:
        out: folder to write to.
        images: (N, H, W, C) in [0, 1]; samples.npy has them as float32.
        frames: pictures of the film, which may be none.
        manifest: content of manifest.json.
        picture: content of grid.png; None draws the first images as their space does.
        space: the space of the images, which may be matrices (N, m, m). samples.npy has its dtype.
    """
    write_npy(out / "samples.npy", images.astype(space.stored))
    if picture is None:
        space.picture(out / "grid.png", images)
    else:
        save_png(out / "grid.png", picture)
    if frames:
        save_gif(out / "denoising.gif", [*frames, *frames[-1:] * 8], 80)
    write_json(out / "manifest.json", manifest)


def write_draws(out: Path, draws: np.ndarray, manifest: dict[str, Any], picture: np.ndarray) -> None:
    """Write draws.npy, draws.png and manifest.json: several answers to each input.

    Args:
        out: folder to write to.
        draws: (N, K, H, W, C) in [0, 1]; draws.npy has them as float32.
        manifest: content of manifest.json.
        picture: content of draws.png.
    """
    write_npy(out / "draws.npy", draws.astype(np.float32))
    save_png(out / "draws.png", picture)
    write_json(out / "manifest.json", manifest)


def manifest_of(trained: Trained, sampling: SamplingConfig, table: SamplingTable, started: float) -> dict[str, Any]:
    """The part of manifest.json that describes the network and the sampling method."""
    return {
        "checkpoint": str(trained.files[0].parent),
        "weights_sha256": file_hash(*trained.files),
        **{name: value for name, value in dataclasses.asdict(sampling).items() if name != "batch_size"},
        "steps": steps_of(sampling),
        "nfe": table.nfe,
        "network_evaluations": table.network_evaluations,
        "batch_size": sampling.batch_size,
        "dtype": trained.dtype,
        "data_sha256": trained.data.get("sha256"),
        "normalise": trained.data.get("preparation", {}).get("normalise"),
        "seconds": round(time.monotonic() - started, 3),
    }
