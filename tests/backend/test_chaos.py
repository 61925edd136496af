"""Damaged files of the framework's own format: state_dicts of PyTorch, the graph that TensorFlow published."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READERS = {"torch": "state-dict", "tensorflow": "graph"}


@pytest.mark.slow
def test_no_damaged_file_breaks_the_framework_s_reader(backend):
    command = [sys.executable, "-m", "tests.chaos", "--cases", "400", "--readers", READERS[backend.name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
