"""Edits of images as a user calls them: this file resolves options, conditions and sizes for core.inference.editing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.checkpoints.trained import Trained
from core.diffusion.measurements import Measurement
from core.diffusion.posterior import Method, Observed
from core.diffusion.process import Process
from core.diffusion.samplers import with_options
from core.images import intensity_and_slope
from core.inference import editing, solving
from core.inference.conditioning import Condition, asked_condition, no_condition
from core.inference.editing import Edited, Editor, Images
from core.inference.images_beside import beside_of, image_beside, shrunk
from core.inference.sampling import Conditioned, Network

STEPS = 100
"""Default number of timesteps for an edit that takes the whole sampling grid."""
MOST_DRAWS = 1000
"""Largest number of images drawn for one image."""
SOLVE_STEPS = 50
"""Default number of timesteps of PiGDM, which takes a solver of order 2."""


@dataclass(frozen=True)
class Edits:
    """Edits of images (N, H, W, C) in [0, 1]; `edit` of a Generator.

    Every method takes these keywords too:
        seed (0): seed of the noise.
        first (0): index of the first image; the noise depends on the index and the seed.
        class_name: class of all images, for a class-conditional network.
        condition: arrays of N rows by the network's keyword.
        progress: called after each evaluation of the network with the number of images in the batch.
        Options of SamplingConfig by name, such as steps or sampler; the default is the recipe's. Guidance is off.
    Every method returns a core.inference.editing.Edited, whose `images` are (N, H, W, C) in [0, 1].
    """

    twin_network: Network
    trained: Trained
    process: Process

    def img2img(self, images: Images, strength: float = 0.5, **how: Any) -> Edited:
        """Draw images like the given ones: add noise for the share `strength` of the steps, and remove it (SDEdit)."""
        return editing.img2img(self._editor(images, how), images, strength)

    def inpaint(
        self, images: Images, hole: NDArray[np.bool_], jump: int | None = None, resample: int = 5, **how: Any
    ) -> Edited:
        """Paint where `hole` (H, W) is True so that it agrees with the rest (RePaint).

        The sampler goes back by `jump` timesteps of the grid and forward again, `resample` times in all. None chooses a
        jump that fits the grid.
        """
        how = {"sampler": "ddpm", **self._whole_grid(), **how}
        if how["sampler"] == "ddpm":
            how = {"variance": "fixed_small", **how}
        return editing.inpaint(self._editor(images, how), images, hole, jump, resample)

    def interpolate(self, images: Images, frames: int = 8, **how: Any) -> Edited:
        """Draw `frames` images from image 0 to 1, from 2 to 3 and so on, both ends included, through their noise."""
        return editing.interpolate(
            self._editor(images, {"sampler": "ddim", **self._whole_grid(), **how}), images, frames
        )

    def reconstruct(self, images: Images, **how: Any) -> Edited:
        """Map images to their noise by the deterministic flow, and back; `facts` has the error in grey levels."""
        return editing.reconstruct(self._editor(images, {"sampler": "ddim", **self._whole_grid(), **how}), images)

    def upscale(self, images: Images, **how: Any) -> Edited:
        """Enlarge images, with a network that was trained with data.low_resolution.

        Images of the large size are made small first, and compared with the result.

        Raises:
            ValueError: a network trained without data.low_resolution, or images of neither size.
        """
        factor, size = self.trained.low_resolution, self.trained.model.sample_size
        if not factor:
            raise ValueError("upscale: the network must be trained with data.low_resolution")
        whole = images.shape[1:3] == size
        small = shrunk(images, factor) if whole else images
        if small.shape[1:3] != (size[0] // factor, size[1] // factor):
            low = f"{size[0] // factor}x{size[1] // factor}"
            raise ValueError(f"upscale: images of {images.shape[1]}x{images.shape[2]} pixels: must have {low}")
        beside = image_beside(small, size, self.trained.dtype, self.trained.process.stretch)
        editor = self._editor(images, how, {"image": beside})
        return editing.upscale(editor, beside, images if whole else None)

    def translate(self, inputs: Images, draws: int = 8, originals: Images | None = None, **how: Any) -> Edited:
        """Draw several images for each image that the network is conditioned on.

        Args:
            inputs: (N, h, w, C'), of the shape of the images beside those that the network was trained on.
            draws: number of images drawn for each. Draw k of an input does not depend on their number.
            originals: (N, H, W, C) in [0, 1], to compare with; None where they are not known.
            how: as for every method.
        Returns:
            An Edited whose images are (N, draws, H, W, C).
        Raises:
            ValueError: a network that is conditioned on no image, or inputs of another shape.
        """
        if not 1 <= draws <= MOST_DRAWS:
            raise ValueError(f"--draws {draws}: must be at least 1 and at most {MOST_DRAWS}")
        beside = beside_of(self.trained, inputs)
        editor = self._editor(inputs, how, {"image": beside}, draws)
        return editing.translate(editor, beside, self.trained.image_shape, originals)

    def solve(
        self,
        measured: Images,
        operator: Measurement,
        noise: float,
        method: Method = "pigdm",
        draws: int = 4,
        step: float = 1.0,
        originals: Images | None = None,
        **how: Any,
    ) -> Edited:
        """Draw images that fit measurements, from the posterior of an unconditional network.

        Args:
            measured: (N, h, w, C) measurements A image + noise, in intensity.
            operator: A, such as read_operator("blur:1.5", (64, 64)) of core.inference.measuring makes it.
            noise: standard deviation of the noise, in intensity; above 0.
            method: pigdm or dps; see core.diffusion.posterior.
            draws: number of images drawn for each measurement. Draw k does not depend on their number.
            step: dps: length of its step.
            originals: (N, H, W, C) in [0, 1], the images that were measured; None where they are not known.
            how: as for every method; a class-conditional network takes its unconditional prediction without class_name.
        Returns:
            An Edited whose images are (N, draws, H, W, C).
        Raises:
            ValueError: a network without unconditional prediction, or a sampler that the method cannot guide.
        """
        if noise <= 0:
            raise ValueError(f"--noise {noise:g}: must be above 0, the standard deviation of the noise in intensity")
        if not 1 <= draws <= MOST_DRAWS:
            raise ValueError(f"--draws {draws}: must be at least 1 and at most {MOST_DRAWS}")
        own: dict[str, Any] = {"sampler": "ddpm", "steps": self.trained.process.timesteps}
        if method == "pigdm":
            own = {"sampler": "dpmsolver++", "steps": min(SOLVE_STEPS, self.trained.process.timesteps)}
            own |= {"spacing": "log_snr"} if self.process.signal[-1] > 0 else {}
        how = {**own, **how, "noise": "host"}
        if how["sampler"] == "ddpm":
            how = {"variance": "fixed_small", **how}
        samples = range(how.get("first", 0), how.get("first", 0) + len(measured))
        how["condition"] = self._unconditional(samples, how.pop("class_name", None))
        editor = self._editor(measured, how, draws=draws)
        observed = Observed(
            operator, noise, partial(intensity_and_slope, stretch=self.trained.process.stretch), method, step
        )
        return solving.solve(editor, measured, observed, self.trained.image_shape, originals)

    def _unconditional(self, samples: range, class_name: str | None) -> Condition:
        """The condition of an unconditional prediction, or of one given the class alone."""
        trained = self.trained
        if trained.model.condition_channels:
            raise ValueError("edit solve: must have a network that is not conditioned on an image")
        asked = asked_condition(trained.classes, trained.data, samples, 0, trained.dtype, class_name)
        free = dict(no_condition(asked, trained.classes))
        if class_name is not None:
            free["labels"] = asked["labels"]
        if free and not trained.drops and ("vector" in free or class_name is None):
            raise ValueError(
                "edit solve: must have a network with an unconditional prediction: unconditional, or trained with "
                "training.condition_dropout"
            )
        return free

    def _whole_grid(self) -> dict[str, Any]:
        return {"steps": min(STEPS, self.trained.process.timesteps)}

    def _editor(self, images: Images, how: dict[str, Any], more: Condition | None = None, draws: int = 1) -> Editor:
        """The editor of N images, each drawn `draws` times; `more` is added to the condition."""
        options = dict(how)
        seed, first = options.pop("seed", 0), options.pop("first", 0)
        progress: Callable[[int], object] = options.pop("progress", lambda count: None)
        condition, class_name = options.pop("condition", None), options.pop("class_name", None)
        trained = self.trained
        asked: dict[str, Any] = dict(condition or {})
        if condition is None or class_name is not None:
            samples = range(first, first + len(images))
            asked |= asked_condition(trained.classes, trained.data, samples, seed, trained.dtype, class_name)
        asked |= more or {}
        if trained.model.condition_channels and "image" not in asked:
            raise ValueError("condition: must have `image`, since the network is conditioned on an image beside each")
        sampling = with_options(trained.sampling, {"guidance": 1.0, **options})
        given = Conditioned(self.twin_network, {name: np.repeat(value, draws, axis=0) for name, value in asked.items()})
        return Editor(given, self.process, sampling, trained.dtype, seed, first, progress, draws)
