"""Fixtures of all tests. `backend` is the twin under test; DIPTYCH_BACKEND says which, `torch` or `tensorflow`."""

import importlib
import importlib.util
import os
from types import ModuleType

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


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    name = asked_backend()
    request.config.stash[USED] = name
    return Backend(name)


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith("test_parity"):
            item.add_marker(pytest.mark.cross)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    name = terminalreporter.config.stash.get(USED, None)
    if name is not None:
        terminalreporter.write_line(f"backend: {name}")
