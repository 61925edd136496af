"""What a framework supplies to the shared command line, and what the verbs share. Imports no framework."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from core.command_line import parse
from core.config import ModelConfig, Recipe

if TYPE_CHECKING:
    from core.extractors.features import Extractor
    from core.inference.likelihood import Evaluator

T = TypeVar("T")


@dataclass(frozen=True)
class Exported:
    """What a twin says of an export that it has written."""

    expected: np.ndarray
    """The twin's network on the batch that it was given, (B, H, W, C)."""
    found: np.ndarray | None
    """The export on it, opened by its own runtime; None where that is not installed."""
    details: dict[str, Any]
    """For the export's manifest: layout, image_size, stands_alone, open_with, and what only this format has."""


@dataclass(frozen=True)
class Published:
    """A file of an extractor's weights as somebody published it, in the format that a twin reads."""

    url: str
    sha256: str
    read: Callable[[Path], dict[str, np.ndarray]]
    """The parameters by canonical name; a ValueError where the file is another."""


@dataclass(frozen=True)
class Twin:
    """What a framework supplies; every function imports the framework when it is called."""

    package: str
    set_threads: Callable[[int], None]
    describe: Callable[[], dict[str, Any]]
    make_trainer: Callable[[Recipe], Any]
    make_sampler: Callable[[ModelConfig, dict[str, np.ndarray], str], Any]
    tasks: Callable[[], dict[str, Any]]
    """The worker's tasks that need tensors: forward and gradients."""
    formats: dict[str, tuple[str, str]]
    """Format of an export -> suffix of its file ('' where it is a folder), and what opens it."""
    export: Callable[[ModelConfig, dict[str, np.ndarray], str, Path, dict[str, np.ndarray]], Exported]
    """Write a network in a format to a path, and evaluate it and the export on a batch: x (NHWC), t, labels by name."""
    read_pickle: Callable[[Path], dict[str, np.ndarray]]
    """The tensors of a pickled state_dict; a ValueError where the framework is not PyTorch."""
    make_extractor: Callable[[str, dict[str, np.ndarray], str, str], Extractor]
    """An extractor by name, over given weights, with a way to resize and a dtype."""
    published: Callable[[], dict[str, Published]]
    """The file of weights that `fetch` brings, by the extractor's name."""
    make_evaluator: Callable[[ModelConfig, dict[str, np.ndarray], str], Evaluator]
    """The network on arrays, with given weights and a dtype: its output and its vector-Jacobian product."""

    @property
    def prog(self) -> str:
        """How this twin is called."""
        return f"python -m {self.package}"


def read_flags(default: T, twin: Twin, argv: list[str], name: str, more: str = "") -> T:
    """Read a verb's flags; its docstring is the help's text, examples included, and `more` what only this twin has."""
    text = inspect.cleandoc(type(default).__doc__ or "").replace("PACKAGE", twin.package)
    return parse(type(default), argv, f"{twin.prog} {name}", f"{text}\n\n{more}".rstrip(), default)


def environment(twin: Twin) -> dict[str, Any]:
    """What a manifest says of the machine and the versions."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        **twin.describe(),
    }
