"""The fuzzer finds readers that fail in every way; the files that once failed do so no longer; a new run finds none."""

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.chaos import __main__ as runner
from tests.chaos.mutations import DIRECTORY
from tests.chaos.readers import Case, Reader, never

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())


def make(folder):
    (folder / "a.json").write_text('{"a": 1}')


def failing(error):
    def read(folder, target):
        if (folder / target).read_bytes() == b'{"a": 1}' if (folder / target).is_file() else False:
            return 1
        return error(folder / target)

    return Reader(make, ("a.json",), read, never)


def raising(error):
    raise error


def endless():
    while True:
        pass


def allocating(path):
    np.frombuffer(mmap.mmap(-1, 288 << 20), np.uint8)[:] = 1  # freed memory that this process holds could serve malloc


FAULTY = {
    "TRACEBACK": lambda path: [][0],
    "CRASH": lambda path: os.kill(os.getpid(), signal.SIGTERM),
    "HANG": lambda path: endless(),
    "MEMORY": allocating,
    "WRONG-ACCEPT": lambda path: 2,
    "NO-FILE-NAME": lambda path: raising(ValueError("not valid JSON")),
    "WRONG-EXIT": lambda path: raising(OSError(5, "Input/output error", str(path))),
    "refused": lambda path: raising(ValueError(f"{path}: not valid JSON")),
    "accepted": lambda path: 1,
}


def test_every_fault_of_a_reader_is_found(monkeypatch, capfd):
    monkeypatch.setattr(runner, "READERS", {kind: failing(error) for kind, error in FAULTY.items()})
    monkeypatch.setattr(runner, "SECONDS", 3)
    outcomes = runner.run({kind: 1 if kind == "HANG" else 3 for kind in FAULTY}, seed=3)
    assert len(outcomes) == 3 * len(FAULTY) - 2
    found = {(name, outcome.kind) for name, _, outcome in outcomes if outcome.kind != "accepted"}
    assert found == {(name, name) for name in FAULTY if name != "accepted"}
    lines = runner.table(outcomes).splitlines()
    assert len(lines) == 3 + len(FAULTY) and lines[-1].startswith("| all | ")


def test_a_seed_repeats_its_cases(tmp_path):
    whole = runner.make_whole("npy", tmp_path / "whole")
    cases = [runner.draw_case("npy", whole, seed, index, ()) for seed in (1, 1, 2) for index in range(20)]
    assert cases[:20] == cases[20:40] != cases[40:]


@pytest.mark.parametrize("reader", sorted({path.relative_to(CORPUS).parts[0] for path in KEPT}))
def test_what_once_failed_fails_no_longer(tmp_path, reader):
    whole = runner.make_whole(reader, tmp_path / "whole")
    for path in (path for path in KEPT if path.relative_to(CORPUS).parts[0] == reader):
        target = path.relative_to(CORPUS / reader).as_posix().partition("/")[2]
        case = Case(target, "kept", whole.files[target], path.read_bytes(), whole.contents[target])
        outcome = runner.judge(whole, case, tmp_path / "case")
        assert outcome.kind in runner.GOOD, (path.relative_to(CORPUS), outcome)


@pytest.mark.slow
def test_no_damaged_file_breaks_a_reader():
    """The seed is the first 32 bits of the commit's hash; `--seed` repeats it."""
    command = [sys.executable, "-m", "tests.chaos", "--cases", "10000"]
    done = subprocess.run(command, cwd=runner.ROOT, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_a_folder_in_a_file_s_place_is_kept_as_such(tmp_path):
    runner.lay_out(tmp_path / "case", {"a/b": DIRECTORY, "c": b"1", "d": None})
    assert (tmp_path / "case" / "a" / "b").is_dir() and (tmp_path / "case" / "c").read_bytes() == b"1"
    assert not (tmp_path / "case" / "d").exists()
