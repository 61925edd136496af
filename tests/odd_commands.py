"""Odd command lines: tests/odd_commands.toml as lines, the folder that they run in, and a line run in a process."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core import reading
from core.commands import main as twins
from core.data import __main__ as data
from eval import __main__ as evaluation
from tests.command_line import RECIPE, TWIN

TABLE = Path(__file__).with_name("odd_commands.toml")
SECONDS = 20.0
"""Time limit of a line."""
MEMORY, FREE = 12 << 30, 4 << 30
"""Bytes of address space that a line may take, and of memory that it is told are free."""
NOISE = re.compile(r"\[\d\d:\d\d|^[IWE]\d{4} |^WARNING: All log messages before absl")
"""A progress bar, and what TensorFlow's own logger writes: no message of this project."""
WORDS = {"LONG": "L" * 5000, "DIGITS": "9" * 5000}


@dataclass(frozen=True)
class Line:
    """A command line, and how it must end."""

    program: str
    words: tuple[str, ...]
    code: int
    word: str

    def __str__(self) -> str:
        shown = " ".join(word if len(word) < 60 else word[:8] + "..." for word in self.words)
        return f"{self.program} {shown}"


@dataclass(frozen=True)
class Outcome:
    """How a line ended."""

    code: int | None
    """Exit code; None where it had to be killed at the time limit."""
    out: str
    err: str
    left: tuple[str, ...]
    """Files that were made, changed or removed."""

    def fault(self, line: Line) -> str:
        """What is wrong, as one of a few classes with details; empty where the line ended as it must."""
        said = [text for text in re.split(r"[\r\n]|\x1b\[A", self.err) if text.strip() and not NOISE.search(text)]
        expected = WORDS.get(line.word, line.word)
        if self.code is None:
            return "did not end"
        if "Traceback" in self.err:
            return f"traceback: {said[-1]}"
        if self.code != line.code:
            return f"another code: {self.code}: {self.err or self.out}"
        if line.code and (len(said) != 1 or not said[0].startswith("error: ")):
            return f"not one line: {self.err}"
        if expected not in (said[0] if line.code else self.out):
            return f"without the word {line.word!r}: {self.err or self.out}"
        return f"files: {', '.join(self.left)}" if self.left else ""


def read_table() -> list[Line]:
    """The lines of the table."""
    lines = []
    for start, programs in tomllib.loads(TABLE.read_text(encoding="utf-8")).items():
        for program, rows in programs.items():
            for code, word, rest in rows:
                words = [WORDS.get(part, part) for part in (*start.split(), *shlex.split(rest))]
                lines.append(Line(program, tuple(words), code, word))
    return lines


def make_place(folder: Path) -> Path:
    """Make the folder in which the lines run: recipes, runs of the NumPy twin, images, statistics and broken files."""
    pristine, place = folder / "pristine", folder / "place"
    pristine.mkdir()
    with contextlib.chdir(pristine):
        _recipes()
        _images()
        more = ["--model.num-class-embeds", "4", "--model.vector-channels", "1", "--data.condition", "theta_e"]
        runs = {"run": [], "lenses": [*more, "--training.condition-dropout", "0.1"]}
        runs["averaged"] = ["--training.ema-profiles", "0.05", "0.1"]
        for name, flags in runs.items():
            words = ["train", "--config", "tiny.toml", "--run", name, "--data.held-out", "0.3", *flags]
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()) as said:
                code = twins.main(TWIN, words)
            if code:
                raise RuntimeError(f"train {name}: {said.getvalue()}")
    shutil.copytree(pristine, place)
    return place


def _recipes() -> None:
    Path("tiny.toml").write_text(RECIPE.replace("CACHE", "cache"))
    Path("recipes").mkdir()
    recipes = {
        "syntax.toml": "[model",
        "unknown.toml": "[training]\nlr = 1e-3",
        "inf.toml": "[training]\nlearning_rate = inf",
        "nan.toml": "[training]\nweight_decay = nan",
        "type.toml": "[training]\nsteps = 'ten'",
        "list.json": "[1, 2]",
        "dict.json": "{}",
        "text.json": "no JSON",
        "deep.json": "[" * 100_000,
        "deep.toml": "x = " + "[" * 100_000,
        "digits.json": '{"training": {"steps": ' + "9" * 5000 + "}}",
        "digits.toml": "[training]\nsteps = " + "9" * 5000,
        "date.toml": "[training]\nsteps = 1979-05-27",
        "table.toml": "model = 3",
        "top.toml": "steps = 3",
    }
    for name, text in recipes.items():
        Path("recipes", name).write_text(text)
    Path("recipes", "binary.toml").write_bytes(bytes(range(256)))


def _images() -> None:
    draw = np.random.default_rng(0)
    images = draw.random((6, 8, 16), np.float32)
    np.save("images.npy", images)
    np.save("many.npy", draw.random((64, 8, 16), np.float32))
    for name in ("pictures", "bigger", "broken", "hot", "empty", "drawn"):
        Path(name).mkdir()
    for index, image in enumerate(images):
        Image.fromarray((image * 255).astype(np.uint8)).save(f"pictures/{index}.png")
        np.save(f"bigger/{index}.npy", draw.random((12, 12), np.float32))
        np.save(f"hot/{index}.npy", image * 5)
        np.save(f"broken/{index}.npy", image * (np.nan if index in (2, 4) else 1))
    np.save("drawn/samples.npy", images)
    Path("drawn/manifest.json").write_text("{}")
    for name in ("text.npy", "file.txt", "text.png"):
        Path(name).write_text("this is text\n")
    Path("nothing.npy").touch()
    np.savez("cut.npz", images=images)
    Path("cut.npz").write_bytes(Path("cut.npz").read_bytes()[:-100])
    hole = np.zeros((8, 16), np.uint8)
    hole[2:4, 2:4] = 255
    Image.fromarray(hole).save("hole.png")
    Image.fromarray(hole[:4]).save("hole-small.png")
    np.savez("stats.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    about = '{"n": 50, "extractor": {"name": "inception", "tap": "2048", "resize": "clean"}}'
    np.savez("stats2048.npz", mu=np.zeros(2048), sigma=np.eye(2048), about=np.array(about))
    np.savez("lens-stats.npz", mu=np.zeros(64), sigma=np.eye(64), about=np.array('{"extractor": {"name": "lens"}}'))
    np.savez("odd.npz", mu=np.zeros(3), sigma=np.eye(2))


def listing(place: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change, and every folder; a run's lock may be written again."""
    found = {}
    for path in place.rglob("*"):
        if path.name == "lock":
            continue
        stat = path.stat()
        found[path.relative_to(place).as_posix()] = (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
    return found


def run_line(line: Line, place: Path, package: str = TWIN, seconds: float = SECONDS) -> Outcome:
    """Run a line in a fork of this process, in a folder.

    Args:
        line: the line; the program `twin` is a twin's.
        place: the folder that make_place() filled.
        package: the twin.
        seconds: time limit, after which the process is killed.
    """
    before = listing(place)
    out, err = place.with_name("stdout"), place.with_name("stderr")
    child = os.fork()
    if not child:
        _child(line, place, package, out, err)
    end, code = time.monotonic() + seconds, None
    while code is None and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if done else None
        time.sleep(0 if done else 0.002)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    after = listing(place)
    left = tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))
    if left:  # the next line must not meet it
        shutil.rmtree(place)
        shutil.copytree(place.with_name("pristine"), place)
    said, complained = (path.read_text(encoding="utf-8", errors="replace") for path in (out, err))
    return Outcome(code, said, complained, left)


def _child(line: Line, place: Path, package: str, out: Path, err: Path) -> None:
    """The forked process: its own folder, streams and memory limit; it never returns."""
    import resource

    code = 70
    try:
        os.setsid()
        os.chdir(place)
        for path, descriptor in ((Path(os.devnull), 0), (out, 1), (err, 2)):
            file = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, descriptor)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, "w" if i else "r", closefd=False) for i in range(3))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        reading.free_memory = lambda: FREE
        code = call(line, package)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(line: Line, package: str) -> int:
    """The exit code of a line, by its program's main()."""
    words = list(line.words)
    if line.program == "eval":
        return evaluation.main(words)
    if line.program == "core.data":
        return data.main(words)
    return twins.main(package if line.program == "twin" else line.program, words)


def report(package: str = TWIN) -> None:
    """Run the table and print the faults and the count of each class."""
    import collections
    import tempfile

    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder))
        for line in read_table():
            started = time.monotonic()
            outcome = run_line(line, place, package)
            fault = outcome.fault(line)
            counts[fault.split(":")[0].split(" '")[0] or "as expected"] += 1
            slow = time.monotonic() - started
            if fault or slow > 2:
                print(f"[{slow:.1f} s] {line}\n    {fault[:400]}", flush=True)
    print(sum(counts.values()), dict(counts))


if __name__ == "__main__":
    report()
