"""Editing images with a trained network: the tables of core.diffusion.editing, run over batches with keyed noise.

A twin supplies the executor; this module imports no framework.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import SamplingConfig
from core.data.formats import decode
from core.diffusion.editing import decode_table, encode_table, keep_known, repaint_table, slerp, tail_table
from core.diffusion.process import Process
from core.diffusion.samplers import make_table
from core.diffusion.table import Edit, SamplingTable
from core.images import from_unit, grid, to_unit
from core.inference.conditioning import Condition
from core.inference.sampling import Sampler, finished
from core.random import gaussian

Images = NDArray[Any]
HOLE_GREY = 0.5


@dataclasses.dataclass(frozen=True)
class Editor:
    """A twin's executor and what its runs share; image i of a seed has the same noise whatever the batch size."""

    sampler: Sampler
    process: Process
    sampling: SamplingConfig
    dtype: str
    seed: int
    first: int
    """Index of the first image."""
    callback: Callable[[SamplingTable, int], object] = lambda table, evaluations: None
    """Called with the table that is run and the number of images times evaluations done since the last call."""

    def noise(self, purpose: Any, places: NDArray[np.int64], step: int, shape: tuple[int, ...]) -> Images:
        """Keyed noise of the images at `places`, (B, H, W, C)."""
        return gaussian(self.seed, purpose, self.first + places, step, shape, self.dtype)

    def run(
        self,
        table: SamplingTable,
        x: Images,
        condition: Condition,
        edit: Callable[[NDArray[np.int64]], Edit] | None = None,
    ) -> Images:
        """Run a table on states x (N, H, W, C) in batches; `edit` makes the hook of the images at given places."""
        result = np.empty(x.shape, self.dtype)
        for start in range(0, len(x), self.sampling.batch_size):
            places = np.arange(start, min(start + self.sampling.batch_size, len(x)))

            def noise(row: int, places: NDArray[np.int64] = places) -> Images:
                return self.noise("sampler", places, row, x.shape[1:])

            def after(row: int, images: Images, places: NDArray[np.int64] = places) -> None:
                self.callback(table, len(places))

            given = {name: value[places] for name, value in condition.items()}
            hook = None if edit is None else edit(places)
            result[places] = self.sampler(table, x[places].astype(self.dtype), noise, given, after, hook)
        return result


@dataclasses.dataclass(frozen=True)
class Edited:
    """Images that an edit made, and what it is seen by."""

    images: Images
    """(N, H, W, C) in [0, 1]."""
    columns: list[Images]
    """Pictures side by side, one an image each, in [0, 1]."""
    table: SamplingTable
    """The table that made the images."""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """For the manifest."""

    def picture(self, most: int = 16) -> Images:
        """The columns as one picture, of the first `most` images."""
        rows = [np.stack([column[i] for column in self.columns]) for i in range(min(most, len(self.columns[0])))]
        return grid(np.concatenate(rows).astype(np.float32), columns=len(self.columns))


def reconstruct(editor: Editor, images: Images, condition: Condition) -> Edited:
    """Images to their noise by DDIM's inversion and back; the difference is the inversion's error.

    Args:
        images: (N, H, W, C) in [0, 1].
        condition: arrays of N rows.
    """
    table = encode_table(editor.process, editor.sampling)
    noise = editor.run(table, from_unit(images), condition)
    back = decode_table(editor.process, editor.sampling)
    found = finished(editor.run(back, noise, condition))
    error = float(np.sqrt(np.mean((found - images) ** 2)) * 255)
    shown = np.clip(0.5 + noise / 6, 0, 1)  # three deviations either way
    facts = {"rms_error_grey_levels": error, "encode_nfe": table.nfe, "latent_deviation": float(noise.std())}
    return Edited(found, [images, shown, found], back, facts)


def interpolate(editor: Editor, images: Images, condition: Condition, frames: int) -> Edited:
    """Between images 0 and 1, 2 and 3, ...: along the arc between their noises, `frames` images with both ends.

    A frame has the condition of the image that it is nearer to. Arguments as reconstruct().
    """
    if len(images) % 2:
        raise ValueError(f"--n {len(images)}: must be even, since images are taken in pairs")
    if frames < 2:
        raise ValueError(f"--frames {frames}: must be at least 2")
    table = encode_table(editor.process, editor.sampling)
    noise = editor.run(table, from_unit(images), condition)
    shares = np.linspace(0, 1, frames)
    between = np.stack([slerp(noise[::2], noise[1::2], float(share)) for share in shares], axis=1)
    nearest = (np.arange(0, len(images), 2)[:, None] + (shares > 0.5)).ravel()
    back = decode_table(editor.process, editor.sampling)
    given = {name: value[nearest] for name, value in condition.items()}
    found = finished(editor.run(back, between.reshape(-1, *images.shape[1:]), given))
    rows = found.reshape(between.shape)
    columns = [images[::2], *(rows[:, i] for i in range(frames)), images[1::2]]
    return Edited(found, columns, back, {"frames": frames, "encode_nfe": table.nfe})


def img2img(editor: Editor, images: Images, condition: Condition, strength: float) -> Edited:
    """Noise an image to `strength` of the grid and sample from there. Arguments as reconstruct()."""
    table, level = tail_table(editor.process, editor.sampling, strength)
    places = np.arange(len(images))
    start = level.signal * from_unit(images) + level.noise * editor.noise("edit", places, 0, images.shape[1:])
    found = finished(editor.run(table, start, condition))
    return Edited(found, [images, to_unit(start), found], table, {"strength": strength, "start_t": level.t})


def inpaint(
    editor: Editor, images: Images, condition: Condition, hole: NDArray[np.bool_], jump: int, resample: int
) -> Edited:
    """Paint a hole so that it goes with what is round it. Arguments as reconstruct(), and:

    Args:
        hole: (H, W), True where to paint.
        jump, resample: of core.diffusion.editing.repaint_table.
    """
    table, reached = repaint_table(editor.process, editor.sampling, jump, resample)
    places, shape = np.arange(len(images)), images.shape[1:]
    where = hole[None, :, :, None]

    def edit(chosen: NDArray[np.int64]) -> Edit:
        known = from_unit(images[chosen])
        return keep_known(known, where, reached, lambda row: editor.noise("edit", chosen, row, shape))

    found = finished(editor.run(table, editor.noise("x_T", places, 0, shape), condition, edit))
    facts = {"jump": jump, "resample": resample, "painted_share": float(hole.mean())}
    return Edited(found, [images, np.where(where, HOLE_GREY, images), found], table, facts)


def upscale(editor: Editor, shown: Images, originals: Images | None, condition: Condition) -> Edited:
    """Sample a network that is conditioned on an image in low resolution.

    Args:
        shown: (N, H, W, C) in [0, 1], the small images brought to the full size.
        originals: the images that they were made from, where there are any.
        condition: arrays of N rows, among them `image`.
    """
    table = make_table(editor.process, dataclasses.replace(editor.sampling, guidance=1.0))
    found = finished(editor.run(table, editor.noise("x_T", np.arange(len(shown)), 0, shown.shape[1:]), condition))
    if originals is None:
        return Edited(found, [shown, found], table)
    errors = [float(np.sqrt(np.mean((values - originals) ** 2)) * 255) for values in (shown, found)]
    facts = dict(zip(("rms_of_bicubic_grey_levels", "rms_grey_levels"), errors, strict=True))
    return Edited(found, [shown, found, originals], table, facts)


def read_hole(mask: str, box: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where to paint, (H, W), from a picture or .npy (above half: paint) or from a box TOP,LEFT,HEIGHT,WIDTH in pixels.

    Raises:
        ValueError: both or neither, another size, a box outside the image, nothing to paint, or all.
    """
    if bool(mask) == bool(box):
        raise ValueError("edit inpaint: give either --box TOP,LEFT,HEIGHT,WIDTH or --mask FILE")
    if box:
        return _box(box, size)
    path = Path(mask)
    if not path.is_file():
        raise ValueError(f"--mask {mask}: no such file")
    values = decode(path.read_bytes(), mask, channels=1)[..., 0]
    if values.shape != size:
        raise ValueError(f"--mask {mask}: {values.shape}: must be {size}, as the images")
    most = np.iinfo(values.dtype).max if path.suffix != ".npy" and values.dtype.kind == "u" else 1
    hole: NDArray[np.bool_] = values > most / 2
    if hole.all() or not hole.any():
        raise ValueError(
            f"--mask {mask}: paints {'every' if hole.all() else 'no'} pixel: must keep some and paint some"
        )
    return hole


def _box(box: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    parts = box.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--box {box}: must be TOP,LEFT,HEIGHT,WIDTH in pixels, such as 8,8,16,16")
    top, left, height, width = map(int, parts)
    if min(height, width) < 1 or top + height > size[0] or left + width > size[1] or (height, width) == size:
        raise ValueError(f"--box {box}: must be a part of the image of {size[0]}x{size[1]} pixels")
    hole = np.zeros(size, bool)
    hole[top : top + height, left : left + width] = True
    return hole
