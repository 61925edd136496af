"""Shared by the tests of eval."""

import sys
from collections.abc import Iterator

import pytest

from eval.twins.interpreters import VARIABLES


@pytest.fixture(scope="module")
def this_python() -> Iterator[str]:
    """Pretended twins run in the interpreter of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES.values():
            patch.setenv(name, sys.executable)
        yield sys.executable
