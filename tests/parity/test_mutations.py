"""The parity ladder finds every fault of tests/faults.toml on its rung, and finds nothing where there is no fault.

One fault alone: `python -m tests.mutations --only NAME`.
"""

import pytest

from tests.faults import FAULTS, RECIPES
from tests.mutations import attempt

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_ladder_finds_the_fault(fault):
    outcome = attempt(fault, fault.recipe)
    assert outcome.ok, outcome


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_ladder_finds_nothing_where_there_is_no_fault(recipe):
    outcome = attempt(None, recipe)
    assert outcome.ok, outcome
