"""Fixtures of the tests of core."""

from pathlib import Path

import pytest

from tests.command_line import RECIPE


@pytest.fixture
def recipe(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny recipe; the prepared data are shared by all tests."""
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.replace("CACHE", str(tmp_path_factory.getbasetemp() / "cache")))
    return path
