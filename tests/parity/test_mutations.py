"""The parity ladder finds every fault of tests/faults.toml on its rung, and finds nothing where there is no fault.

One fault alone: `python -m tests.mutations --only NAME`.
"""

import json

import pytest

from tests.faults import FAULTS, RECIPES
from tests.mutations import main


@pytest.mark.slow
def test_the_ladder_finds_every_fault(tmp_path):
    code = main(["--out", str(tmp_path / "outcomes.json")])
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    for outcome in outcomes:
        print(f"{outcome['fault']}: rung {outcome['rung']}, {outcome['quantity']}: {outcome['measured']}")
    assert [outcome for outcome in outcomes if not outcome["ok"]] == [] and code == 0
    assert len(outcomes) == len(RECIPES) + len(FAULTS)
