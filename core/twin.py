"""A twin by its name: the package of a framework, whose modules are imported when they are first needed.

tests/test_mirror.py guarantees that both packages have the same modules and names. No other file in core imports them.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.config import ModelConfig, Recipe

if TYPE_CHECKING:
    import numpy as np

    from core.extractors.features import Extractor
    from core.inference.sampling import Network
    from core.training.ranks import Ranks
    from core.training.training import Trainer

    Weights = dict[str, np.ndarray]

Device = Literal["auto", "cuda", "mps", "cpu"]


def choose_device(framework: str, name: str, there: Sequence[str], dtype: str) -> str:
    """The name of the device to compute on: cuda, mps or cpu.

    Args:
        framework: the framework's name, for the message.
        name: cuda, an NVIDIA GPU (or AMD's, in a ROCm build); mps, Apple's GPU; cpu; or auto, which is cuda where there
            is one, and otherwise cpu.
        there: the devices that the framework finds.
        dtype: float32 or float64, which mps does not have.
    Raises:
        ValueError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if "cuda" in there else "cpu"
    if name not in there:
        raise ValueError(f"device {name}: {framework} finds none here; must be auto or {' or '.join(there)}")
    if name == "mps" and dtype == "float64":
        raise ValueError("device mps: has no float64; take device cpu, or training.dtype = float32")
    return name


@dataclass(frozen=True)
class Exported:
    """An export that a twin has written, evaluated on a batch."""

    expected: np.ndarray
    """Output of the twin's network, (B, H, W, C)."""
    found: np.ndarray | None
    """Output of the export in its own runtime, (B, H, W, C); None where that runtime is not installed."""
    details: dict[str, Any]
    """Entries of the export's manifest: layout, image_size, stands_alone, open_with, and those of this format alone."""


@dataclass(frozen=True)
class Published:
    """A published file of an extractor's weights, in a format that a twin reads."""

    url: str
    """Address of the file."""
    sha256: str
    """SHA-256 of the file, in hexadecimal."""
    read: Callable[[Path], Weights]
    """Reads the parameters by canonical name; raises ValueError for another file."""


@dataclass(frozen=True)
class Twin:
    """The package of a framework."""

    package: str
    """Name of the package: torch_impl or tf_impl."""
    device: Device = "auto"
    """Where networks run: cuda, mps, cpu, or auto, which is cuda where there is one and otherwise cpu."""
    compiled: bool | None = None
    """Whether networks are compiled; None compiles them on an NVIDIA GPU for long trainings and long sampling."""
    own_process: bool = False
    """Whether the process runs this twin's command line and nothing else."""

    @property
    def prog(self) -> str:
        """The command of this twin's command line."""
        return f"python -m {self.package}"

    def module(self, name: str) -> Any:
        """Import a module of the package, such as trainer, and with it the framework."""
        full = f"{self.package}.{name}"
        if full in sys.modules or not self.own_process:
            return importlib.import_module(full)
        gc.disable()  # an import makes a million objects that stay: to look among them for garbage takes a second
        try:
            return importlib.import_module(full)
        finally:
            gc.freeze()
            gc.enable()

    @property
    def formats(self) -> dict[str, tuple[str, str]]:
        """Formats of exports by name: the suffix of the file, empty for a folder, and a description."""
        formats: dict[str, tuple[str, str]] = importlib.import_module(self.package).EXPORT_FORMATS
        return formats

    def on(self, device: Device) -> Twin:
        """This twin on another device."""
        return dataclasses.replace(self, device=device)

    def prepare(self, threads: int) -> None:
        """Limit the number of CPU threads, where 0 leaves it to the framework, and check that the device is there.

        Raises:
            ValueError: the device is not there.
        """
        self.module("trainer").set_threads(threads)
        self.module("device").pick_device(self.device)

    def environment(self) -> dict[str, Any]:
        """Entries of a manifest: machine, versions, framework, number of threads and device."""
        import numpy as np

        return {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            **self.module("trainer").describe(self.device),
        }

    def join(self) -> Ranks:
        """The processes that train together with this one, as the launcher says; call it before anything is computed.

        Raises:
            ValueError: the device is not there, or the launcher's settings are wrong.
        """
        ranks: Ranks = self.module("ranks").join(self.device)
        return ranks

    def make_trainer(self, recipe: Recipe, ranks: Ranks | None = None) -> Trainer:
        """A new trainer, with initial weights drawn from the recipe's seed; None trains alone."""
        trainer: Trainer = self.module("trainer").Trainer(recipe, self.device, self.compiled, ranks)
        return trainer

    def make_network(self, model: ModelConfig, weights: Weights, dtype: str) -> Network:
        """The network with given weights, in evaluation mode, on the device.

        Args:
            model: its configuration.
            weights: every parameter by canonical name (OIHW).
            dtype: float32, float64, or bf16: float32 with convolutions and products in bfloat16.
        """
        network: Network = self.module("sampler").make_network(model, weights, dtype, self.device, self.compiled)
        return network

    def make_extractor(self, name: str, weights: Weights, resize: str, dtype: str) -> Extractor:
        """A feature extractor by name, with given weights; see make_extractor() of a twin's extractors.py."""
        extractor: Extractor = self.module("extractors").make_extractor(name, weights, resize, dtype, self.device)
        return extractor

    def read_pickle(self, path: Path) -> Weights:
        """The tensors of a pickled state_dict; raises ValueError where the framework is not PyTorch."""
        tensors: Weights = self.module("weights").read_pickle(path)
        return tensors

    def published(self) -> dict[str, Published]:
        """The published weights that the verb `fetch` downloads, by the extractor's name."""
        return {"inception": self.module("inception").PUBLISHED}
