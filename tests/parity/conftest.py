"""Both twins' workers, which all tests across the frameworks share."""

from collections.abc import Iterator

import pytest

from eval.parity.ladder import Twins, start_twins


@pytest.fixture(scope="session")
def twins() -> Iterator[Twins]:
    with start_twins() as twins:
        yield twins
