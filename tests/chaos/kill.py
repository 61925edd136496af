"""A campaign of kills over real trainings: `python -m tests.chaos.kill --framework torch --kills 30 --seed 0`.

A case is one run that is disturbed once to three times, each time at a random moment, and then goes on to its end. It
must equal a run that nobody disturbed: weights, averages, training state, metrics, sample grids and all other files.
kill        SIGKILL at any moment
write       SIGKILL while a file is being written
term        SIGTERM
two         a second process trains in the same folder, and SIGKILL ends one of the two or both
disk        the disk is full: a tmpfs where one may be mounted, otherwise RLIMIT_FSIZE
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.checkpoints.checkpoint import load_checkpoint
from eval.twins.interpreters import FRAMEWORKS, PACKAGES, ROOT, find_python
from tests.chaos.trainings import EVERY, RECIPES, STEPS, Child, content, load, may_mount, resize, small_disk, start

KINDS = {"kill": 10, "write": 10, "term": 3, "two": 3, "disk": 3}
"""Kinds of disturbances, and how often each is drawn."""
FOREIGN = (
    "notes.txt",
    ".mine.partial",
    "averages/.a.1@elsewhere.0123456789abcdef.partial",
    "checkpoints/.step-00000002.77.partial",
    "checkpoints/step-00000002-copy/notes.txt",
)
"""Files of others in a run's folder; they must stay."""
REFUSALS = "trains in this folder|already holds a run|already at step|no run there"
PLENTY = 1 << 26
"""Bytes of a small disk that is not full."""


@dataclass
class Case:
    """One run, and what happened to it."""

    package: str
    folder: Path
    recipe: str
    rng: random.Random
    duration: float
    """Seconds that a whole training takes."""
    mounted: bool
    """Whether the run stands on a small disk."""
    saved: int = 0
    """Step of the last checkpoint."""
    between: set[int] = field(default_factory=set)
    """Steps of checkpoints that a signal caused."""
    problems: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "run"

    def start(self, limit: int = 0) -> Child:
        """Go on with the run, or start it where it has not begun."""
        begun = (self.run / "recipe.json").exists()
        words = ["--resume", "run"] if begun else ["--config", "recipe.toml", "--run", "run"]
        return start(self.package, self.folder, "train", *words, limit=limit)

    def steps(self) -> int:
        """Number of whole lines of metrics."""
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def partials(self) -> list[str]:
        """Temporary files and folders in the run's folder."""
        walk = os.walk(self.run)  # which goes on where a folder vanishes
        paths = (Path(folder, name) for folder, *names in walk for name in (*names[0], *names[1]))
        found = (path.relative_to(self.run).as_posix() for path in paths if path.name.endswith(".partial"))
        return [name for name in found if name not in FOREIGN]

    def wait(self, child: Child, aimed: bool = False) -> None:
        """Wait for a random moment of a training; an aimed one lies within the writing of a file."""
        have = self.steps()
        goal = self.rng.randint(have, STEPS - 1) if have < STEPS else have
        if goal == have:
            time.sleep(self.rng.uniform(0, self.duration / 2))
        _until(lambda: self.steps() >= goal, child)
        if aimed:
            before = set(self.partials())
            _until(lambda: set(self.partials()) - before, child)
        time.sleep(self.rng.uniform(0, 0.02 if aimed else 0.1))

    def disturb(self, kind: str) -> dict[str, Any] | None:
        """Disturb the run once; what happened, or None where it ended before."""
        if self.saved == STEPS:
            return None
        codes = getattr(self, f"_{kind}")()
        if 98 in codes or 99 in codes:
            self.problems.append("hung" if 98 in codes else "traceback")
        left, steps, before = self.partials(), self.steps(), self.saved
        struck = "writing" if left else "training" if steps else "starting"
        self.saved = self._last(saved_at_least=steps if codes in ([0], [143]) else (steps - 1) // EVERY * EVERY)
        if codes == [143]:
            self.between.add(steps)
        happened = {
            "kind": kind,
            "codes": codes,
            "struck": struck,
            "steps": steps,
            "saved": self.saved,
            "before": before,
        }
        return None if codes == [0] else happened

    def _kill(self, aimed: bool = False) -> list[int]:
        child = self.start()
        self.wait(child, aimed)
        child.send(signal.SIGKILL)
        return [child.wait()]

    def _write(self) -> list[int]:
        return self._kill(aimed=True)

    def _term(self) -> list[int]:
        child = self.start()
        self.wait(child)
        child.send(signal.SIGTERM)
        code = child.wait()
        self._expect(code in (0, 143, -signal.SIGTERM), f"SIGTERM: code {code}")
        return [code]

    def _two(self) -> list[int]:
        both = [self.start()]
        self.wait(both[0])
        both.append(self.start())
        alone = self.rng.random() < 0.5
        if alone:  # the second is refused, or the first is where the second was faster
            both[1].wait()
        else:
            time.sleep(self.rng.uniform(0, self.duration / 2))
        for child in self.rng.choice([both, both[:1], both[1:]]):
            child.send(signal.SIGKILL)
        for child in both:
            code = child.wait()
            refused = code == 2 and re.search(REFUSALS, child.says) is not None
            self._expect(refused or code in (0, -signal.SIGKILL), f"two: code {code}: {child.says[-200:]}")
        codes = [child.wait() for child in both]
        self._expect(not alone or 2 in codes, f"two: both trained: codes {codes}")
        return codes

    def _disk(self) -> list[int]:
        limit = 0 if self.mounted else self.rng.randint(3_000, 60_000)
        if self.mounted:
            space = os.statvfs(self.run)
            used = (space.f_blocks - space.f_bfree) * space.f_bsize
            resize(self.run, used + self.rng.randint(4_096, 700_000))
        child = self.start(limit)
        code = child.wait()
        if self.mounted:
            resize(self.run, PLENTY)
        errors = [line for line in child.says.splitlines() if line.startswith("error: ")]
        told = (
            len(errors) == 1 and re.search("No space left|File too large", errors[0]) and "Traceback" not in child.says
        )
        self._expect(code == 0 or (code == 1 and bool(told)), f"full disk: code {code}: {child.says[-200:]}")
        return [code]

    def _expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def _last(self, saved_at_least: int) -> int:
        """The step of the last checkpoint; every checkpoint must be whole, and none that was there be missing."""
        steps = []
        for path in (self.run / "checkpoints").glob("step-????????"):
            with contextlib.suppress(ValueError):
                steps.append(load_checkpoint(path).progress["step"])
                continue
            self.problems.append(f"{path.name} is damaged")
        latest = self.run / "latest"
        newest = max(steps, default=0)  # where a resumed run begins if it finds no `latest`
        saved = int(latest.read_text().removeprefix("step-")) if latest.exists() else newest
        self._expect(not saved or saved in steps, f"latest names step {saved}, and {sorted(steps)} are there")
        self._expect(saved >= max(self.saved, saved_at_least), f"lost: at step {saved}, expected {saved_at_least}")
        if self.recipe == "all":
            gone = set(range(EVERY, self.saved + 1, EVERY)) - set(steps)
            self._expect(not gone, f"lost: the checkpoints {sorted(gone)}")
        return saved

    def finish(self, whole: dict[str, bytes]) -> tuple[bool, list[str]]:
        """Go on to the end; whether that went well, and the files that differ from those of an undisturbed run."""
        child = self.start()
        code = child.wait()
        done = code == 2 and "already at step" in child.says
        found, expected = content(self.run), whole | dict.fromkeys(FOREIGN, b"mine")
        unequal = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
        if done:  # ended between its last checkpoint and the removal of the one before
            unequal -= {name for name in unequal - expected.keys() if re.match(r"checkpoints/step-\d{8}/", name)}
        for step in self.between:
            unequal -= {name for name in unequal - expected.keys() if f"/step-{step:08d}" in name}
        unequal |= {str(path) for path in (self.folder / "cache").glob(".*") if path.name != ".mine.partial"}
        self._expect(code == 0 or done, f"going on: code {code}: {child.says[-300:]}")
        return code == 0 or done, sorted(unequal)


def _until(holds: Callable[[], object], child: Child) -> None:
    while not child.ended() and not holds():
        time.sleep(0.0005)


@dataclass
class Campaign:
    """Cases of one framework and seed, and the file of their results."""

    framework: str
    seed: int
    results: Path
    base: Path
    whole: dict[str, dict[str, bytes]] = field(default_factory=dict)
    duration: float = 1.0

    def lines(self) -> list[dict[str, Any]]:
        """The results so far."""
        found = []
        for text in self.results.read_text().splitlines() if self.results.exists() else []:
            with contextlib.suppress(ValueError):  # cut short
                found.append(json.loads(text))
        return [line for line in found if (line["framework"], line["seed"]) == (self.framework, self.seed)]

    def prepare(self) -> None:
        """Import the framework, and train the runs that nobody disturbs."""
        load(PACKAGES[self.framework], self.base)  # type: ignore[index]
        for name in RECIPES:
            case = self.case(name, f"whole-{name}", False)
            started = time.monotonic()
            if case.start().wait():
                raise RuntimeError(f"the undisturbed run failed, see {case.folder}")
            self.duration = time.monotonic() - started
            self.whole[name] = content(case.run)

    def case(self, recipe: str, name: str, mounted: bool) -> Case:
        """A new case in a folder of its own."""
        folder = self.base / name
        folder.mkdir()
        (folder / "recipe.toml").write_text(RECIPES[recipe])
        rng = random.Random(f"{self.framework} {self.seed} {name}")
        return Case(PACKAGES[self.framework], folder, recipe, rng, self.duration, mounted)  # type: ignore[index]

    def play(self, number: int, mounts: bool) -> list[dict[str, Any]]:
        """One case; a line for each time that it was disturbed."""
        rng = random.Random(f"{self.framework} {self.seed} {number}")
        recipe = rng.choice([*RECIPES])
        kinds = rng.choices([*KINDS], [*KINDS.values()], k=rng.choice([1, 2, 3]))
        case = self.case(recipe, str(number), mounts and "disk" in kinds)
        with small_disk(case.run, PLENTY) if case.mounted else contextlib.nullcontext():
            for path in (*(case.run / name for name in FOREIGN), case.folder / "cache" / ".mine.partial"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("mine")
            lines = [line for kind in kinds if (line := case.disturb(kind))]
            resumed, unequal = case.finish(self.whole[recipe])
            if unequal or case.problems:
                kept = self.results.with_name(f"{self.results.name}-{self.framework}-{self.seed}-{number}")
                shutil.copytree(case.folder, kept, dirs_exist_ok=True)
        shutil.rmtree(case.folder)
        where = {"framework": self.framework, "seed": self.seed, "case": number, "recipe": recipe}
        lost = any(problem.startswith("lost") for problem in case.problems)
        end = {"resumed": resumed, "lost": lost, "unequal": unequal, "problems": case.problems}
        disk = "tmpfs" if mounts else "RLIMIT_FSIZE"
        return [{**where, **line, **({"disk": disk} if line["kind"] == "disk" else {}), **end} for line in lines]

    def append(self, lines: list[dict[str, Any]], commit: str) -> None:
        """Add lines to the results, on the disk when this returns."""
        with open(self.results, "a+b") as file:
            if file.tell() and self.results.read_bytes()[-1:] != b"\n":
                file.write(b"\n")  # a line was cut short
            file.write("".join(json.dumps({**line, "commit": commit}) + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())


def table(lines: list[dict[str, Any]]) -> str:
    """How often each kind of disturbance occurred, and what came of it."""
    rows = [
        "| kind | times | while writing | resumed | lost | unequal | other faults |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in (*KINDS, "all"):
        of = [line for line in lines if kind in (line["kind"], "all")]
        counts = (
            len(of),
            sum(line["struck"] == "writing" for line in of),
            sum(line["resumed"] for line in of),
            sum(line["lost"] for line in of),
            sum(bool(line["unequal"]) for line in of),
            sum(bool(line["problems"]) and not line["lost"] for line in of),
        )
        rows.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    return "\n".join(rows)


def revision() -> str:
    """The commit of the checkout; `+` where files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


def main() -> int:
    """Run a campaign, or go on with one; 0 where nothing was lost and everything is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=FRAMEWORKS, required=True)
    parser.add_argument("--kills", type=int, default=30, help="disturbances in the results when the campaign ends")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all that is drawn; the moment also depends on the machine"
    )
    parser.add_argument(
        "--results", type=Path, help="file of results, one JSON line for each disturbance; goes on with it"
    )
    given = parser.parse_args()
    module = {"torch": "torch", "tensorflow": "tensorflow"}[given.framework]
    if importlib.util.find_spec(module) is None:
        python = find_python(given.framework)
        os.execvp(python[0], [*python, "-m", "tests.chaos.kill", *sys.argv[1:]])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory(prefix="diptych-") as base:
        results = (given.results or Path(base) / "results.jsonl").resolve()
        campaign = Campaign(given.framework, given.seed, results, Path(base))
        lines, commit = campaign.lines(), revision()
        if len(lines) < given.kills:
            campaign.prepare()
        mounts, number = may_mount(), max((line["case"] for line in lines), default=-1)
        while len(lines) < given.kills:
            number += 1
            new = campaign.play(number, mounts)
            campaign.append(new, commit)
            lines += new
            for line in new:
                if line["unequal"] or line["problems"]:
                    print(json.dumps(line), flush=True)
    disk = "tmpfs" if mounts else "RLIMIT_FSIZE"
    print(f"{given.framework}, seed {given.seed}, commit {commit}, {disk}\n{table(lines)}")
    return int(any(line["lost"] or line["unequal"] or line["problems"] or not line["resumed"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
