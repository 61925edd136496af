"""Shared by the tests of eval."""

import sys

import pytest

from eval.twins.interpreters import VARIABLES


@pytest.fixture(scope="module")
def this_python():
    """Pretended twins run in the interpreter of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES.values():
            patch.setenv(name, sys.executable)
        yield sys.executable
