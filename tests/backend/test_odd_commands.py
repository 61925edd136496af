"""Odd command lines of tests/odd_commands.toml over a real framework, whose code is reached or refused before."""

import pytest

from tests.odd_commands import make_place, read_table, run_line

VERBS = ("sample", "edit", "likelihood", "features", "import", "worker")
LINES = [line for line in read_table() if line.program == "twin" and line.words[0] in VERBS]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("odd"))


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=[str(line).replace("/", "|") for line in LINES])
def test_an_odd_command_line_ends_in_one_line(backend, place, line):
    assert not run_line(line, place, repr(backend), seconds=120).fault(line)
