"""A list of images that are read and checked one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.formats import AGAIN, Image, describe
from core.reading import reading

SHOWN = 8
"""Names of broken images in a message."""


@dataclass(frozen=True)
class Source:
    """A list of images of one shape and dtype, read one at a time.

    Attributes:
        names: one an image, for messages.
        shape, dtype: (H, W, C) and dtype of every image, as stored.
        fetch: index -> array (H, W, C), unchecked; use `read`.
        labels: (N,) int64 in [0, K), or None.
        class_names: K names, in the order of the labels.
        parameters: name -> (N,) float64, such as a simulation's true parameters.
        identity: JSON values that change when the sizes, times or checksums of the files do.
        files: names of the files in the folder or zip, or of the file itself; empty for the simulator.
        file_sum: name -> SHA-256 of the file's bytes, in hexadecimal; None where it cannot be read.
        one_a_file: whether each image is a file of its own, whose name tells it from the others.
    """

    names: Sequence[str]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    fetch: Callable[[int], Image]
    labels: npt.NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    parameters: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    file_sum: Callable[[str], str | None] = lambda name: None
    one_a_file: bool = False

    def read(self, index: int) -> Image:
        """Image (H, W, C) of the stored dtype.

        Raises:
            BrokenImageError: it cannot be decoded, is not finite or is not like the first; all such images are named.
        """
        try:
            return self._whole(index)
        except ValueError as error:
            raise BrokenImageError(_listed(error, [self.names[i] for i in self.broken()])) from error

    def broken(self) -> dict[int, str]:
        """What is wrong with each image that cannot be read, by its index. Every image is read."""
        from tqdm import tqdm

        found = {}
        for index in tqdm(range(len(self.names)), desc="Looking for broken images", unit="image", leave=False):
            try:
                self._whole(index)
            except ValueError as error:
                found[index] = str(error)
        return found

    def without_broken(self) -> tuple[Source, list[str]]:
        """The images that can be read, and what is wrong with each of the others.

        Raises:
            ValueError: more than half of the images are broken.
        """
        broken = self.broken()
        if 2 * len(broken) > len(self.names):
            cause = f"the first says: {next(iter(broken.values()))}"
            raise ValueError(f"{len(broken)} of {len(self.names)} images are broken, too many to leave out; {cause}")
        kept = [index for index in range(len(self.names)) if index not in broken]
        source = dataclasses.replace(
            self,
            names=[self.names[index] for index in kept],
            fetch=lambda index: self.fetch(kept[index]),
            labels=None if self.labels is None else self.labels[kept],
            parameters={name: values[kept] for name, values in self.parameters.items()},
        )
        return source, list(broken.values())

    def _whole(self, index: int) -> Image:
        """An image, checked; ValueError names it."""
        name = self.names[index]
        with reading(name, "an image", AGAIN):
            image = self.fetch(index)
        if image.shape != self.shape or image.dtype != self.dtype:
            raise ValueError(
                f"{name}: {describe(image.shape, image.dtype)} where {self.names[0]} is "
                f"{describe(self.shape, self.dtype)}; all images must be alike: convert or remove it"
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            bad = int(image.size - np.isfinite(image).sum())
            raise ValueError(f"{name}: {bad} of {image.size} values are not finite; repair or remove the file")
        return image


class BrokenImageError(ValueError):
    """Images of a source that cannot be read. The message says what is wrong with one and names the others."""


def _listed(error: ValueError, names: Sequence[str]) -> str:
    """The message of one image's error, with the names of all broken images where there are more."""
    if len(names) < 2:
        return str(error)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{error}; {len(names)} images are broken: {', '.join(names[:SHOWN])}{rest}"
