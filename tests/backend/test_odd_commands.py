"""Odd command lines of tests/odd_commands.toml over a real framework, whose code is reached or refused before."""

import json
import subprocess
import sys

import pytest

from eval.twins.interpreters import ROOT
from tests.odd_commands import read_table

VERBS = ("sample", "edit", "likelihood", "features", "import", "worker")
LINES = [line for line in read_table() if line.program == "twin" and line.words[0] in VERBS]
# A process that has imported the framework and computed nothing: a fork of one with threads could wait for ever.
RUN = """
import importlib, json, sys
from pathlib import Path
from tests.backend.test_odd_commands import LINES
from tests.odd_commands import make_place, run_line
importlib.import_module(f"{sys.argv[1]}.trainer")
place = make_place(Path(sys.argv[2]))
print(json.dumps({str(line): run_line(line, place, sys.argv[1], seconds=120).fault(line) for line in LINES}))
"""


@pytest.mark.slow
def test_every_odd_command_line_ends_in_one_line(backend, tmp_path):
    command = [sys.executable, "-c", RUN, repr(backend), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    faults = json.loads(done.stdout.splitlines()[-1])
    assert len(faults) == len(LINES) > 20
    assert {line: fault for line, fault in faults.items() if fault} == {}
