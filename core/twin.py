"""What a framework supplies to the shared command line, and what the verbs share. Imports no framework."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from core.command import parse
from core.config import ModelConfig, Recipe

T = TypeVar("T")


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

    @property
    def prog(self) -> str:
        """How this twin is called."""
        return f"python -m {self.package}"


def read_flags(default: T, twin: Twin, argv: list[str], name: str) -> T:
    """Read a verb's flags; its docstring is the help's text, examples included."""
    text = inspect.cleandoc(type(default).__doc__ or "").replace("PACKAGE", twin.package)
    return parse(type(default), argv, f"{twin.prog} {name}", text, default)


def environment(twin: Twin) -> dict[str, Any]:
    """What a manifest says of the machine and the versions."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        **twin.describe(),
    }
