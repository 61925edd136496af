"""The parity ladder finds every fault of tests/faults.py, on its rung, and finds none where there is none.

The same as `python -m tests.mutations`, which prints it as a table.
"""

import pytest

from tests.faults import FAULTS, RECIPES
from tests.mutations import attempt

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_fault_is_green(recipe):
    outcome = attempt(None, recipe)
    assert outcome.ok, outcome


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_turns_its_rung_red(fault, record_property):
    outcome = attempt(fault, fault.recipe)
    record_property(f"rung {outcome.rung}: {outcome.quantity}", outcome.measured)
    assert outcome.ok, outcome
