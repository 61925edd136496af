"""What features of images are taken with: a twin's networks, started as its own process, or no network at all.

Imports NumPy, core and eval's door to the twins only.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.extractors.features import default_weights, first_batch_size
from core.files import file_hash
from core.metrics.pixels import thumbnails
from eval.measure.distance import Taps
from eval.twins.client import Framework, Worker

FidExtractor = Literal["lens", "inception", "pixels"]
"""The twins' networks; and pixels, thumbnails of 16 x 16, which need none."""

TAPS = {"lens": ["features", "parameters", "logits"], "inception": ["2048", "logits_unbiased"], "pixels": ["thumbnail"]}


@dataclass(frozen=True)
class Extractor:
    """A network for features, its weights and how images are brought to its size; pixels have none of these."""

    name: FidExtractor
    weights: Path | None = None
    sha256: str | None = None
    resize: str = "area"

    @property
    def taps(self) -> list[str]:
        """The taps to take, the first being the one whose distance is measured."""
        return TAPS[self.name]

    def about(self) -> dict[str, Any]:
        """For the result file."""
        return {"name": self.name, "tap": self.taps[0], "weights_sha256": self.sha256, "resize": self.resize}


def open_extractor(name: FidExtractor, resize: str, weights: str | None) -> Extractor:
    """The extractor and its weights: the committed ones, those fetched, or a file.

    Raises:
        ValueError: Inception's weights are not there, or a file of weights for pixels.
    """
    if name == "pixels":
        if weights:
            raise ValueError(f"--weights {weights}: must be left out with --extractor pixels, which has none")
        return Extractor(name)
    path = Path(weights) if weights else default_weights(name)[0]
    if not path.is_file():
        raise ValueError(f"--weights {path}: no such file")
    return Extractor(name, path, file_hash(path), "clean" if name == "lens" else resize)


class FeatureWorker:
    """Features of images, from one twin's worker."""

    def __init__(self, worker: Worker, extractor: Extractor) -> None:
        self.worker, self.extractor = worker, extractor

    def __call__(self, images: Any) -> Taps:
        """Taps of images (N, H, W, C), float64."""
        e = self.extractor
        found, _ = self.worker.call(
            "features", {"images": np.asarray(images, np.float32)}, extractor=e.name, weights=str(e.weights.resolve()),
            resize=e.resize, dtype="float32", taps=e.taps, batch_size=first_batch_size(e.name, "cpu", "float32"),
        )  # fmt: skip
        return {tap: rows.astype(np.float64) for tap, rows in found.items()}


@contextlib.contextmanager
def open_features(
    extractor: Extractor, framework: Framework, python: str | None
) -> Iterator[tuple[Callable[[Any], Taps], dict[str, Any]]]:
    """What takes the features of images (N, H, W, C), float64, and what the result file says of it."""
    if extractor.name == "pixels":

        def pixels(images: Any) -> Taps:
            return {"thumbnail": thumbnails(np.asarray(images)).reshape(len(images), -1)}

        yield pixels, {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
        return
    with Worker(framework, python=python, timeout=24 * 3600.0) as worker:
        yield FeatureWorker(worker, extractor), worker.call("describe")[1]
