"""Every odd command line ends with its exit code and one line, in time, and leaves no file. See odd_commands.toml."""

import pytest

from core.commands import main
from core.data import __main__ as data
from eval import __main__ as evaluation
from tests.odd_commands import Line, Outcome, listing, make_place, read_table, run_line

LINES = read_table()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("line", LINES, ids=[str(line).replace("/", "|") for line in LINES])
def test_an_odd_command_line_ends_in_one_line(line, place):
    assert not run_line(line, place).fault(line)


def test_the_table_is_large_and_names_every_verb():
    verbs = {line.words[0] for line in LINES if line.words}
    assert len(LINES) >= 500 and len(set(LINES)) == len(LINES)
    assert {*main.VERBS, *data.COMMANDS, *evaluation.VERBS} <= verbs
    assert {line.program for line in LINES} == {"twin", "torch_impl", "tf_impl", "eval", "core.data"}


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(None, "", "", ()), "did not end"),
        (Outcome(2, "", "Traceback (most recent call last):\nKeyError: 'a'\n", ()), "traceback: KeyError: 'a'"),
        (Outcome(1, "", "error: --n 0: must be at least 1\n", ()), "another code: 1"),
        (Outcome(2, "", "error: --n 0\nmust be at least 1\n", ()), "not one line"),
        (Outcome(2, "", "error: must be at least 1\n", ()), "without the word '--n'"),
        (Outcome(2, "", "error: --n 0: must be at least 1\n", ("new",)), "files: new"),
        (Outcome(2, "", "\rsample: 0%|  | [00:00<?, ?eval/s]\nerror: --n 0: must be at least 1\n", ()), ""),
    ],
)
def test_each_fault_is_seen(outcome, fault):
    found = outcome.fault(Line("twin", ("sample", "run", "--n", "0"), 2, "--n"))
    assert found.startswith(fault) and bool(found) == bool(fault)


def test_what_a_line_leaves_is_seen_and_taken_away(place):
    before = listing(place)
    words = ("sample", "run", "--n", "2", "--out", "new")
    outcome = run_line(Line("twin", words, 0, "wrote"), place)
    assert outcome.code == 0 and {"new", "new/samples.npy"} <= set(outcome.left)
    assert listing(place) == before


def test_a_line_that_does_not_end_is_killed(place):
    assert run_line(Line("twin", ("likelihood", "run", "--n", "9"), 0, ""), place, seconds=0.01).code is None
