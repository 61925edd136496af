"""Edits of images by a trained network: the tables of core.diffusion.editing, run over batches with keyed noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import SamplingConfig
from core.data.formats import decode
from core.diffusion.editing import (
    decode_table,
    encode_table,
    fitting_jump,
    keep_known,
    repaint_table,
    slerp,
    tail_table,
)
from core.diffusion.process import Process
from core.diffusion.samplers import make_table, steps_of
from core.diffusion.table import After, SamplingTable
from core.images import from_unit, grid, shown_as
from core.inference.sampling import Conditioned, KeyedNoise, Part, finished, run_table
from core.reading import check_file, reading

Images = NDArray[Any]
HOLE_GREY = 0.5
NEXT_DRAW = 10**16
"""Distance between the noise's indices of two draws of one image; above every index of an image."""
SHOWN_DRAWS = 8
"""Largest number of draws of an image in a picture."""


@dataclasses.dataclass(frozen=True)
class Editor:
    """A network conditioned for N images, with the options that every run of a table over them shares."""

    network: Conditioned
    process: Process
    sampling: SamplingConfig
    dtype: str
    """Dtype of the network: float32 or float64."""
    seed: int = 0
    """Seed of the noise."""
    first: int = 0
    """Index of the first image. The noise depends on the index and the seed."""
    progress: Callable[[int], object] = lambda images: None
    """Called after each evaluation of the network with the number of images in the batch."""
    draws: int = 1
    """Number of images drawn in a row for each given image."""

    def noise(self, images: Images) -> KeyedNoise:
        """The noise of N images, of the shape of `images` (N, H, W, C)."""
        places, on_device = (divmod(i, self.draws) for i in range(len(images))), self.sampling.noise == "device"
        samples = [self.first + index + draw * NEXT_DRAW for index, draw in places]
        return KeyedNoise(self.seed, samples, images.shape[1:], self.dtype, on_device)

    def from_images(self, images: Images) -> Images:
        """Images in [0, 1] in the network's range."""
        return from_unit(images, self.process.config.stretch)

    def to_images(self, x: Images) -> Images:
        """The inverse of from_images(); see finished()."""
        return finished(x, self.process.config.stretch)

    def run(
        self,
        table: SamplingTable,
        x: Images,
        network: Conditioned | None = None,
        hook: Callable[[Part], After] | None = None,
    ) -> Images:
        """Run a table on states x (N, H, W, C).

        Args:
            table: the sampling table.
            x: first states: images in [-1, 1] plus noise.
            network: a network conditioned for these images; None takes the editor's own.
            hook: makes the function that is called after each row, for one batch.
        Returns:
            (N, H, W, C): images in [-1, 1], or noise.
        """

        def after(part: Part) -> After:
            inner = None if hook is None else hook(part)

            def step(row: int, state: Images, x_0: Images) -> Images:
                self.progress(len(part))
                return state if inner is None else inner(row, state, x_0)

            return step

        return run_table(
            table,
            network or self.network,
            self.noise(x),
            self.sampling.batch_size,
            start=lambda part: x[part].astype(self.dtype),
            after=after,
        )


@dataclasses.dataclass(frozen=True)
class Edited:
    """The images that an edit made, with pictures and measured values that describe the edit."""

    images: Images
    """(N, H, W, C) in [0, 1]; (N, K, H, W, C) where K images are drawn for each."""
    columns: list[Images]
    """Sets of images (N, H, W, C) in [0, 1] to show side by side, such as the input and the result."""
    table: SamplingTable
    """The table that made the images."""
    editor: Editor
    """The network and options that made the images."""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Measured values and options for the manifest, by name."""

    def picture(self, most: int = 16) -> Images:
        """The columns as one picture, of the first `most` images."""
        rows = [np.stack([column[i] for column in self.columns]) for i in range(min(most, len(self.columns[0])))]
        return grid(np.concatenate(rows).astype(np.float32), columns=len(self.columns))


def reconstruct(editor: Editor, images: Images) -> Edited:
    """Map images to their noise by DDIM inversion, and back. The difference is the error of the inversion.

    Args:
        editor: the network and its options.
        images: (N, H, W, C) in [0, 1].
    """
    table = encode_table(editor.process, editor.sampling)
    noise = editor.run(table, editor.from_images(images))
    back = decode_table(editor.process, editor.sampling)
    found = editor.to_images(editor.run(back, noise))
    error = float(np.sqrt(np.mean((found - images) ** 2)) * 255)
    shown = np.clip(0.5 + noise / 6, 0, 1)  # three deviations either way
    facts = {"rms_error_grey_levels": error, "encode_nfe": table.nfe, "latent_deviation": float(noise.std())}
    return Edited(found, [images, shown, found], back, editor, facts)


def interpolate(editor: Editor, images: Images, frames: int) -> Edited:
    """Draw `frames` images from image 0 to 1, from 2 to 3 and so on, both ends included.

    The frames start on the arc between the noises of a pair. Each has the condition of the nearer image of its pair.
    Other arguments as in reconstruct().
    """
    if len(images) % 2:
        raise ValueError(f"--n {len(images)}: must be even, since images are taken in pairs")
    if frames < 2:
        raise ValueError(f"--frames {frames}: must be at least 2")
    table = encode_table(editor.process, editor.sampling)
    noise = editor.run(table, editor.from_images(images))
    shares = np.linspace(0, 1, frames)
    between = np.stack([slerp(noise[::2], noise[1::2], float(share)) for share in shares], axis=1)
    nearest = (np.arange(0, len(images), 2)[:, None] + (shares > 0.5)).ravel()
    back = decode_table(editor.process, editor.sampling)
    own = editor.network
    given = Conditioned(own.network, {name: value[nearest] for name, value in own.condition.items()})
    found = editor.to_images(editor.run(back, between.reshape(-1, *images.shape[1:]), given))
    rows = found.reshape(between.shape)
    columns = [images[::2], *(rows[:, i] for i in range(frames)), images[1::2]]
    return Edited(found, columns, back, editor, {"frames": frames, "encode_nfe": table.nfe})


def img2img(editor: Editor, images: Images, strength: float) -> Edited:
    """Add noise to images up to the share `strength` of the grid, and sample from there (SDEdit).

    Other arguments as in reconstruct().
    """
    table, level = tail_table(editor.process, editor.sampling, strength)
    noise = editor.noise(images)("edit", np.arange(len(images)))
    start = level.signal * editor.from_images(images) + level.noise * noise
    found = editor.to_images(editor.run(table, start))
    return Edited(
        found, [images, editor.to_images(start), found], table, editor, {"strength": strength, "start_t": level.t}
    )


def inpaint(editor: Editor, images: Images, hole: NDArray[np.bool_], jump: int | None, resample: int) -> Edited:
    """Paint the hole of each image so that it agrees with the rest (RePaint).

    Args:
        editor, images: as in reconstruct().
        hole: (H, W), True at the pixels to paint.
        jump: as in core.diffusion.editing.repaint_table(); None takes fitting_jump().
        resample: as there.
    """
    back = fitting_jump(steps_of(editor.sampling)) if jump is None else jump
    table, reached = repaint_table(editor.process, editor.sampling, back, resample)
    noise, where = editor.noise(images), hole[None, :, :, None]

    def hook(part: Part) -> After:
        return keep_known(editor.from_images(images[part]), where, reached, lambda row: noise("edit", part, row))

    found = editor.to_images(editor.run(table, noise("x_T", np.arange(len(images))), hook=hook))
    chosen = "given" if jump is not None else "fits the steps"
    facts = {"jump": back, "jump_chosen": chosen, "resample": resample, "painted_share": float(hole.mean())}
    return Edited(found, [images, np.where(where, HOLE_GREY, images), found], table, editor, facts)


def upscale(editor: Editor, beside: Images, originals: Images | None) -> Edited:
    """Draw images from a network that is conditioned on low-resolution images.

    Args:
        editor: an editor whose condition has `image`.
        beside: (N, H, W, C) in [-1, 1], the small images resized to the full size.
        originals: (N, H, W, C) in [0, 1], the images before they were made small; None where they are not known.
    """
    table, shown = make_table(editor.process, editor.sampling), editor.to_images(beside)
    found = editor.to_images(editor.run(table, editor.noise(shown)("x_T", np.arange(len(shown)))))
    if originals is None:
        return Edited(found, [shown, found], table, editor)
    errors = [float(np.sqrt(np.mean((values - originals) ** 2)) * 255) for values in (shown, found)]
    facts = dict(zip(("rms_of_bicubic_grey_levels", "rms_grey_levels"), errors, strict=True))
    return Edited(found, [shown, found, originals], table, editor, facts)


def translate(editor: Editor, beside: Images, shape: tuple[int, int, int], originals: Images | None = None) -> Edited:
    """Draw images from a network that is conditioned on an image beside each.

    Args:
        editor: an editor of N editor.draws images, whose condition has `image`.
        beside: (N, H, W, C') in [-1, 1], the images beside, resized to the full size.
        shape: (H, W, C) of the images to draw.
        originals: (N, H, W, C) in [0, 1], the images that belong to those beside; None where they are not known.
    """
    table, shown = make_table(editor.process, editor.sampling), shown_as(editor.to_images(beside), shape)
    count = len(beside) * editor.draws
    x_T = editor.noise(np.broadcast_to(0.0, (count, *shape)))("x_T", np.arange(count))
    found = editor.to_images(editor.run(table, x_T)).reshape(len(beside), editor.draws, *shape)
    columns = [found[:, draw] for draw in range(min(editor.draws, SHOWN_DRAWS))]
    facts: dict[str, Any] = {"draws": editor.draws}
    if originals is None:
        return Edited(found, [shown, *columns], table, editor, facts)
    compared = {"bicubic": shown, "draws": found.swapaxes(0, 1), "mean_of_draws": found.mean(axis=1)}
    rms = {name: float(np.sqrt(np.mean((images - originals) ** 2)) * 255) for name, images in compared.items()}
    facts |= {f"rms_of_{name}_grey_levels": value for name, value in rms.items()}
    return Edited(found, [shown, originals, *columns], table, editor, facts)


def read_hole(mask: str, box: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels to paint, (H, W), from a mask or a box.

    Args:
        mask: path of a picture or .npy file. Pixels above half of white are painted.
        box: TOP,LEFT,HEIGHT,WIDTH in pixels.
        size: height and width of the images in pixels.
    Raises:
        ValueError: both or neither are given, the mask has another size, the box leaves the image, or every pixel or
            none is painted.
    """
    if bool(mask) == bool(box):
        raise ValueError("edit inpaint: give either --box TOP,LEFT,HEIGHT,WIDTH or --mask FILE")
    return _box(box, size) if box else read_mask(mask, size)


def read_mask(mask: str, size: tuple[int, int], flag: str = "--mask ") -> NDArray[np.bool_]:
    """The pixels (H, W) of a mask that are above half of white; arguments as in read_hole().

    Args:
        flag: how the user gave the mask, for messages.
    """
    path = Path(mask)
    if not path.is_file():
        raise ValueError(f"{flag}{mask}: no such file")
    with reading(path, "a mask", "give a picture or a .npy file"):
        check_file(path, 2)
        values = decode(path.read_bytes(), mask, channels=1)[..., 0]
    if not np.isfinite(values).all():
        raise ValueError(f"{flag}{mask}: holds values that are not finite: must be numbers")
    if values.shape != size:
        raise ValueError(f"{flag}{mask}: {values.shape}: must be {size}, as the images")
    most = np.iinfo(values.dtype).max if path.suffix != ".npy" and values.dtype.kind == "u" else 1
    hole: NDArray[np.bool_] = values > most / 2
    if hole.all() or not hole.any():
        raise ValueError(f"{flag}{mask}: paints {'every' if hole.all() else 'no'} pixel: must keep some and paint some")
    return hole


def _box(box: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    parts = box.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--box {box}: must be TOP,LEFT,HEIGHT,WIDTH in pixels, such as 8,8,16,16")
    top, left, height, width = map(int, parts)
    if min(height, width) < 1 or top + height > size[0] or left + width > size[1] or (height, width) == size:
        raise ValueError(f"--box {box}: must be a part of the image of {size[0]}x{size[1]} pixels")
    hole = np.zeros(size, bool)
    hole[top : top + height, left : left + width] = True
    return hole
