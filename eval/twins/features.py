"""Features of images: from an extractor's network in a twin, or thumbnails, which need no network."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from core.config import ExtractorName
from core.extractors.features import EXTRACTORS, default_weights, first_batch_size
from core.files import file_hash
from core.metrics.pixels import thumbnails
from eval.twins.client import Worker
from eval.twins.interpreters import Framework

Taps = Mapping[str, npt.NDArray[Any]]
"""Name of an extractor's output -> (N, d) float64, one row an image."""
FeatureName = Literal["lens", "inception", "pixels"]
"""The twins' extractors, and pixels: thumbnails of at most 16 x 16."""

TAPS = {
    "lens": ["features", "parameters", "logits"],
    "inception": ["2048", "logits_unbiased"],
    "pixels": ["thumbnail"],
    "given": ["features"],
}


@dataclass(frozen=True)
class FeatureExtractor:
    """What takes the features: its name, its weights and how images are resized for it. Pixels have no weights."""

    name: FeatureName | Literal["given"]
    weights: Path | None = None
    sha256: str | None = None
    resize: str = "area"

    @property
    def taps(self) -> list[str]:
        """The outputs to take. The distance is measured on the first."""
        return TAPS[self.name]

    def check_channels(self, channels: int) -> None:
        """Raise ValueError where it does not take images with this number of channels."""
        if self.name == "lens" or self.name == "inception":
            EXTRACTORS[self.name].check_channels(channels)

    def about(self) -> dict[str, Any]:
        """For the result file."""
        return {"name": self.name, "tap": self.taps[0], "weights_sha256": self.sha256, "resize": self.resize}


GIVEN = FeatureExtractor("given", resize="unknown")
"""For rows that are features already."""


def open_extractor(name: FeatureName, resize: str = "clean", weights: str | None = None) -> FeatureExtractor:
    """The extractor with its weights: the given file, else the committed ones (lens) or those fetched (inception).

    Raises:
        ValueError: the weights are not there, or weights are given for pixels.
    """
    if name == "pixels":
        if weights:
            raise ValueError(f"--weights {weights}: must be left out with --extractor pixels, which has none")
        return FeatureExtractor(name)
    path = Path(weights) if weights else default_weights(name)[0]
    if not path.is_file():
        raise ValueError(f"--weights {path}: no such file")
    return FeatureExtractor(name, path, file_hash(path), "clean" if name == "lens" else resize)


class FeatureWorker:
    """Features of images from a twin's worker."""

    def __init__(self, worker: Worker, extractor: FeatureExtractor) -> None:
        self.worker, self.extractor = worker, extractor

    def __call__(self, images: npt.NDArray[Any]) -> Taps:
        """Taps of images (N, H, W, C) in [0, 1], float64."""
        chosen = self.extractor
        network = cast(ExtractorName, chosen.name)  # pixels come from no worker
        options = {
            "extractor": network,
            "weights": str(chosen.weights.resolve()) if chosen.weights else None,
            "resize": chosen.resize,
            "dtype": "float32",
            "taps": chosen.taps,
            "batch_size": first_batch_size(network, "cpu", "float32"),
        }
        found, _ = self.worker.call("features", {"images": np.asarray(images, np.float32)}, **options)
        return {tap: rows.astype(np.float64) for tap, rows in found.items()}


def thumbnail_taps(images: npt.NDArray[Any]) -> Taps:
    """The tap `thumbnail` of images (N, H, W, C) in [0, 1]."""
    return {"thumbnail": thumbnails(np.asarray(images)).reshape(len(images), -1)}


@contextlib.contextmanager
def open_features(
    extractor: FeatureExtractor, framework: Framework
) -> Iterator[tuple[Callable[[npt.NDArray[Any]], Taps], dict[str, Any]]]:
    """A function that takes the features of images, and the environment that the result file names."""
    if extractor.name in ("pixels", "given"):
        versions = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
        yield thumbnail_taps if extractor.name == "pixels" else lambda rows: {"features": rows}, versions
        return
    with Worker(framework, timeout=24 * 3600.0) as worker:
        yield FeatureWorker(worker, extractor), worker.call("describe")[1]
