"""Run damaged files through every reader and count the outcomes; a seed repeats a run.

    python -m tests.chaos [--cases N] [--seed S] [--readers a,b] [--save FOLDER]

Each case ends in one class. Good: refused (one line that names the file, exit code 2), accepted (the content is as
before, or is what the damaged file says). Bad: those in BAD. Cases run in forked processes, each case with a limit of
time and memory; the frameworks are imported once, before the first fork. The exit code is 1 where a case is bad.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.exits import end
from tests.chaos.mutations import DIRECTORY, mutate
from tests.chaos.readers import READERS, Case, Reader

ROOT = Path(__file__).resolve().parents[2]
GOOD = ("refused", "accepted")
BAD = ("TRACEBACK", "CRASH", "HANG", "MEMORY", "WRONG-ACCEPT", "NO-FILE-NAME", "WRONG-EXIT")
SECONDS = 10
"""Processor time of one case; a case that sleeps ends after ten times as many."""
MEMORY = 256 << 20
"""Bytes that one case may take above what the process has before."""
ADDRESSES = 6 << 30
"""Bytes of address space above that, at which an allocation fails."""


@dataclass(frozen=True)
class Whole:
    """The whole files of a reader."""

    reader: Reader
    files: dict[str, bytes]
    contents: dict[str, Any]
    """What the reader gives for the whole files, by the target that it is asked for; None where it refuses them."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: its class, what is alike in cases of one fault, and the message."""

    kind: str
    signature: str
    line: str


def plain(value: Any) -> Any:
    """A value that compares by content, types and bits."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return type(value).__name__, repr(value)


def finite(value: Any) -> bool:
    """Whether every number is."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, dict):
        return finite(list(value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def make_whole(name: str, folder: Path) -> Whole:
    """Make a reader's files in a folder and read them."""
    reader = READERS[name]
    folder.mkdir()
    reader.make(folder)
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    contents: dict[str, Any] = {}
    for target in dict.fromkeys(reader.targets):
        lay_out(folder, dict(files))
        contents[target] = None if reader.refused else reader.read(folder, target)
    shutil.rmtree(folder)
    return Whole(reader, files, contents)


def lay_out(folder: Path, files: dict[str, bytes | None]) -> None:
    """Write files into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data == DIRECTORY:
            path.mkdir()
        elif data is not None:
            path.write_bytes(data)


def judge(whole: Whole, case: Case, folder: Path) -> Outcome:
    """Read a damaged file, and class what happens."""
    lay_out(folder, {**whole.files, case.target: case.data})
    found: list[Any] = []
    out, err = io.StringIO(), io.StringIO()
    for handler in list(logging.getLogger().handlers):
        logging.getLogger().removeHandler(handler)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = end(lambda: found.append(whole.reader.read(folder, case.target)))
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(ROOT))]
        ours = [f for f in frames if not re.search(r"/(tests|\.venvs)/", f.filename)] or frames
        place = f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].name}"
        return Outcome("TRACEBACK", f"{type(error).__name__} in {place}", str(error)[:200])
    line = (err.getvalue().splitlines() or [""])[-1]
    if code:
        named = str(folder / case.target) in line if len(whole.files) == 1 else str(folder) in line
        kind = "WRONG-EXIT" if code != 2 else "refused" if named and line.startswith("error: ") else "NO-FILE-NAME"
        text = line.replace(str(folder), "")
        return Outcome(kind, "".join(c for c in text if not c.isdigit())[:60], line)
    if plain(found[0]) == plain(case.content):
        return Outcome("accepted", "", "")
    try:
        fine = finite(found[0]) and whole.reader.legitimate(case, found[0])
    except Exception as error:  # the oracle's own reading fails: the file is not whole
        fine, line = False, f"{type(error).__name__}: {error}"
    return Outcome("accepted" if fine else "WRONG-ACCEPT", f"{case.target} {case.label}", line[:200])


def draw_case(name: str, whole: Whole, seed: int, index: int, others: tuple[bytes, ...]) -> Case:
    """Case `index` of a reader."""
    rng = random.Random(f"{seed}/{name}/{index}")
    target = rng.choice(whole.reader.targets)
    before = whole.files[target]
    label, data = mutate(rng, target, before, others)
    return Case(target, label, before, data, whole.contents[target])


def measured(whole: Whole, case: Case, folder: Path) -> Outcome:
    """judge() with this process's growth in memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = judge(whole, case, folder)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return Outcome("MEMORY", f"{case.target}", f"{grown >> 20} MiB") if grown > MEMORY else outcome


def limit() -> None:
    """Limit this process's address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(cases: Sequence[tuple[str, int]], wholes: dict[str, Whole], seed: int, log: IO[str], folder: Path) -> None:
    """Run cases one after the other and write a line for each; a limit that is passed ends this process."""
    limit()
    others = tuple(data for whole in wholes.values() for data in whole.files.values())
    for name, index in cases:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
        case = draw_case(name, wholes[name], seed, index, others)
        outcome = measured(wholes[name], case, folder)
        log.write(json.dumps([name, index, outcome.kind, outcome.signature, outcome.line]) + "\n")
        log.flush()
        if outcome.kind == "MEMORY":
            return  # the peak of a process never falls; another one goes on


class Worker:
    """A forked process, and the cases that it has still to run."""

    def __init__(self, cases: list[tuple[str, int]], wholes: dict[str, Whole], seed: int, folder: Path) -> None:
        self.cases, self.wholes, self.seed, self.folder = cases, wholes, seed, folder
        self.log = folder.with_suffix(".jsonl")

    def start(self) -> int:
        """Fork; returns the process's number. The child never returns."""
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            with open(self.log, "w", encoding="utf-8") as log:
                work(self.cases, self.wholes, self.seed, log, self.folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def collect(self, status: int) -> list[tuple[str, int, Outcome]]:
        """The outcomes of a process that ended. Where a case ended it, that is the case's outcome."""
        rows = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        outcomes = [(name, index, Outcome(*outcome)) for name, index, *outcome in rows]
        del self.cases[: len(rows)]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise RuntimeError("the fuzzer itself failed; its traceback is above")
        if os.WIFSIGNALED(status) and self.cases:
            number = os.WTERMSIG(status)
            timed = number in (signal.SIGPROF, signal.SIGALRM)
            kind = "HANG" if timed else "MEMORY" if number == signal.SIGKILL else "CRASH"
            outcomes.append((*self.cases.pop(0), Outcome(kind, f"signal {number}", "")))
        return outcomes


def run(counts: dict[str, int], seed: int, processes: int = 2) -> list[tuple[str, int, Outcome]]:
    """Run cases of several readers.

    Args:
        counts: number of cases by reader.
        seed: seed of all cases.
        processes: number of forked processes.
    Returns:
        Reader, index and outcome of each case.
    """
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        wholes = {name: make_whole(name, Path(place, "whole")) for name in counts}
        cases = [(name, index) for name, count in counts.items() for index in range(count)]
        random.Random(seed).shuffle(cases)
        outcomes: list[tuple[str, int, Outcome]] = []
        workers = [Worker(cases[i::processes], wholes, seed, Path(place, f"{i}")) for i in range(processes)]
        running = {worker.start(): worker for worker in workers if worker.cases}
        while running:
            process, status = os.wait()
            worker = running.pop(process)
            outcomes += worker.collect(status)
            if worker.cases:
                running[worker.start()] = worker
    return outcomes


def table(outcomes: Sequence[tuple[str, int, Outcome]]) -> str:
    """Counts by reader and class, as Markdown."""
    kinds = [*GOOD, *BAD]
    counts = Counter((name, outcome.kind) for name, _, outcome in outcomes)
    names = list(dict.fromkeys(name for name in READERS if any(row[0] == name for row in outcomes)))
    rows: list[list[object]] = [[name, *(counts[name, kind] for kind in kinds)] for name in names]
    rows.append(["all", *(sum(counts[name, kind] for name in names) for kind in kinds)])
    lines: list[list[object]] = [["reader", *kinds], ["---"] * (len(kinds) + 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def commit_seed() -> int:
    """The first 32 bits of the commit's hash; 0 outside a git checkout."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return int(answer.stdout[:8], 16) if answer.returncode == 0 else 0


def shares(names: Sequence[str], cases: int) -> dict[str, int]:
    """The number of cases of each reader."""
    total = sum(READERS[name].share for name in names)
    return {name: math.ceil(cases * READERS[name].share / total) for name in names}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where a case is bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Damaged files against every reader.")
    parser.add_argument("--cases", type=int, default=10_000, help="number of damaged files, over all readers")
    parser.add_argument("--seed", type=int, help="seed of all damage; default: the first 32 bits of the commit's hash")
    parser.add_argument("--readers", default=",".join(READERS), help="readers, separated by commas")
    parser.add_argument(
        "--save", type=Path, help="folder for one damaged file of each fault, such as tests/chaos/corpus"
    )
    command = parser.parse_args(argv)
    names = command.readers.split(",")
    if unknown := set(names) - set(READERS):
        parser.error(f"--readers {', '.join(sorted(unknown))}: must be among {', '.join(READERS)}")
    seed, started = commit_seed() if command.seed is None else command.seed, time.monotonic()
    print(f"seed {seed}", flush=True)
    outcomes = run(shares(names, command.cases), seed)
    faults: dict[tuple[str, str, str], list[tuple[str, int, Outcome]]] = {}
    for name, index, outcome in sorted(outcomes, key=lambda row: row[:2]):
        if outcome.kind in BAD:
            faults.setdefault((name, outcome.kind, outcome.signature), []).append((name, index, outcome))
    for (name, kind, signature), rows in faults.items():
        line = f"{kind} {name} ({len(rows)}): {signature}: cases {[row[1] for row in rows[:3]]}: {rows[0][2].line}"
        print(line.encode("ascii", "backslashreplace").decode())
    if command.save:
        save([rows[0] for rows in faults.values()], seed, command.save)
    print(table(outcomes))
    print(f"{len(outcomes)} cases in {time.monotonic() - started:.0f} s, seed {seed}")
    return 1 if faults else 0


def save(rows: Sequence[tuple[str, int, Outcome]], seed: int, folder: Path) -> None:
    """Write the damaged files of some cases: READER/HASH/TARGET; a file that is missing or a folder is not kept."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        wholes = {name: make_whole(name, Path(place, "whole")) for name in shares(list(READERS), 1)}
        others = tuple(data for whole in wholes.values() for data in whole.files.values())
        for name, index, _ in rows:
            case = draw_case(name, wholes[name], seed, index, others)
            if case.data is not None and case.data != DIRECTORY and len(case.data) <= 20_000:
                path = folder / name / hashlib.sha256(case.data).hexdigest()[:8] / case.target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(case.data)


if __name__ == "__main__":
    sys.exit(main())
