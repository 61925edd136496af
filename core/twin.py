"""A twin by its name: the package of a framework, whose modules are imported when they are first needed.

tests/test_mirror.py guarantees that both packages have the same modules and names. This is the one place that imports a
twin, and it knows nothing of it but its name.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config import ModelConfig, Recipe

if TYPE_CHECKING:
    from core.extractors.features import Extractor
    from core.inference.sampling import Network
    from core.training.training import Trainer

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Exported:
    """What a twin says of an export that it has written."""

    expected: np.ndarray
    """The twin's network on the batch that it was given, (B, H, W, C)."""
    found: np.ndarray | None
    """The export on the same batch, opened by its own runtime; None where that is not installed."""
    details: dict[str, Any]
    """For the export's manifest: layout, image_size, stands_alone, open_with, and what only this format has."""


@dataclass(frozen=True)
class Published:
    """A file of an extractor's weights as somebody published it, in the format that a twin reads."""

    url: str
    sha256: str
    read: Callable[[Path], Weights]
    """The parameters by canonical name; a ValueError where the file is another."""


@dataclass(frozen=True)
class Twin:
    """A framework's package, torch_impl or tf_impl."""

    package: str

    @property
    def prog(self) -> str:
        """How this twin is called."""
        return f"python -m {self.package}"

    def module(self, name: str) -> Any:
        """A module of the package, such as trainer; the framework is imported with it."""
        return importlib.import_module(f"{self.package}.{name}")

    @property
    def formats(self) -> dict[str, tuple[str, str]]:
        """Format of an export -> suffix of its file ('' where it is a folder), and what opens it."""
        formats: dict[str, tuple[str, str]] = importlib.import_module(self.package).EXPORT_FORMATS
        return formats

    def set_threads(self, threads: int) -> None:
        """Limit CPU threads; 0 leaves the framework's choice."""
        self.module("trainer").set_threads(threads)

    def environment(self) -> dict[str, Any]:
        """What a manifest says of the machine, the versions, the framework, its threads and device."""
        return {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            **self.module("trainer").describe(),
        }

    def make_trainer(self, recipe: Recipe) -> Trainer:
        """A fresh trainer, its weights drawn from the recipe's seed."""
        trainer: Trainer = self.module("trainer").Trainer(recipe)
        return trainer

    def make_network(self, model: ModelConfig, weights: Weights, dtype: str) -> Network:
        """The network with given weights, in evaluation mode, on the device at hand."""
        network: Network = self.module("sampler").make_network(model, weights, dtype)
        return network

    def make_extractor(self, name: str, weights: Weights, resize: str, dtype: str) -> Extractor:
        """An extractor of features by name, over given weights, with a way to resize and a dtype."""
        extractor: Extractor = self.module("extractors").make_extractor(name, weights, resize, dtype)
        return extractor

    def read_pickle(self, path: Path) -> Weights:
        """The tensors of a pickled state_dict; a ValueError where the framework is not PyTorch."""
        tensors: Weights = self.module("weights").read_pickle(path)
        return tensors

    def published(self) -> dict[str, Published]:
        """The file of weights that `fetch` brings, by the extractor's name."""
        return {"inception": self.module("inception").PUBLISHED}
