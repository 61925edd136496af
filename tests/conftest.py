"""Fixtures of all tests. `backend` is the twin under test; DIPTYCH_BACKEND says which, `torch` or `tensorflow`."""

import importlib
import importlib.util
import os
import shutil
from types import ModuleType
from typing import Any

import numpy as np
import pytest

PACKAGES = {"torch": "torch_impl", "tensorflow": "tf_impl"}
USED = pytest.StashKey[str]()


def asked_backend() -> str:
    """The framework asked for, else the one that this interpreter has."""
    asked = os.environ.get("DIPTYCH_BACKEND")
    if asked is None:
        here = [name for name in PACKAGES if importlib.util.find_spec(name)]
        if len(here) != 1:
            raise pytest.UsageError(
                f"this Python has {here or 'no framework'}: set DIPTYCH_BACKEND to torch or tensorflow"
            )
        return here[0]
    if asked not in PACKAGES:
        raise pytest.UsageError(f"DIPTYCH_BACKEND = {asked!r}: must be torch or tensorflow")
    return asked


class Backend:
    """A twin: its modules as attributes, imported when first used (`backend.layers` is torch_impl.layers)."""

    def __init__(self, name: str) -> None:
        self.name = name
        importlib.import_module(name)  # a framework that was asked for and is missing fails here

    def __getattr__(self, module: str) -> ModuleType:
        if module.startswith("_"):
            raise AttributeError(module)
        return importlib.import_module(f"{PACKAGES[self.name]}.{module}")

    def __repr__(self) -> str:
        return PACKAGES[self.name]

    def tensor(self, x: np.ndarray) -> Any:
        """An array in the framework: NHWC images to NCHW for PyTorch, anything else as it is."""
        if self.name == "tensorflow":
            return importlib.import_module("tensorflow").constant(x)
        y = importlib.import_module("torch").from_numpy(np.ascontiguousarray(x))
        return y.permute(0, 3, 1, 2).contiguous() if y.ndim == 4 else y

    def array(self, x: Any) -> np.ndarray:
        """A tensor as an array, images as NHWC."""
        if self.name == "tensorflow":
            return np.asarray(x)
        return np.asarray((x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().contiguous())

    def layer(self, name: str, *arguments: Any, dtype: str, **options: Any) -> Any:
        """A layer of the twin at a precision, in evaluation mode."""
        kind = getattr(self.layers, name)
        if self.name == "tensorflow":
            return kind(*arguments, dtype=dtype, **options)
        return kind(*arguments, **options).to(getattr(importlib.import_module("torch"), dtype)).eval()

    def apply(self, layer: Any, weights: dict[str, np.ndarray], *inputs: np.ndarray) -> np.ndarray:
        """A layer's output with given parameters: dotted names, OIHW and (out, in) as in the canonical layout."""
        tensors = [self.tensor(x) for x in inputs]
        layer(*tensors)  # Keras makes variables at the first call
        for name, value in weights.items():
            *path, leaf = name.split(".")
            owner = layer
            for part in path:
                owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
            if self.name == "torch":
                getattr(owner, leaf).data.copy_(importlib.import_module("torch").from_numpy(value))
            else:
                keras_name = {"weight": "gamma" if hasattr(owner, "gamma") else "kernel"}.get(leaf, leaf)
                keras_name = "beta" if leaf == "bias" and hasattr(owner, "beta") else keras_name
                axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)  # OIHW to HWIO, (out, in) to (in, out)
                getattr(owner, keras_name).assign(value.transpose(axes) if axes else value)
        return self.array(layer(*tensors))


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    name = asked_backend()
    request.config.stash[USED] = name
    return Backend(name)


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skips a test of the compiled GroupNorm where there is no compiler; tests.run_tests prints the reason."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("there is no C++ compiler, so the compiled GroupNorm is not tested")
    kernel = importlib.import_module("core.networks.group_norm")
    assert kernel.has_kernel(), "GroupNorm was not compiled: see the log"


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "parity":
            item.add_marker(pytest.mark.cross)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """diffusers imports torchvision where it is installed, and that fails beside a CPU build of PyTorch."""
    if item.get_closest_marker("diffusers") and importlib.util.find_spec("torch"):
        importlib.import_module("tests.peers.torchvision_stub")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    name = terminalreporter.config.stash.get(USED, None)
    if name is not None:
        terminalreporter.write_line(f"backend: {name}")
