"""What a demo leaves on disk: its folder, demo.json, and what its runs have logged."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.run_folder import RunFolder
from core.config import Recipe
from core.config.recipes import load_recipe, to_dict
from core.files import write_json
from core.reading import check_kinds, read_json
from eval.twins.client import run_verb
from eval.twins.interpreters import PACKAGES, Framework

RECORD = "demo.json"
OWN = ("torch", "tensorflow", "samples", "compare.json", "report.html", "picture.png", RECORD)


@dataclass
class DemoFolder:
    """One demo: its folder, its recipe, and the record of what was done (demo.json)."""

    out: Path
    config: Path
    recipe: Recipe
    n: int
    root: Path
    record: dict[str, Any]

    @contextlib.contextmanager
    def timed(self, what: str, anew: bool = True) -> Iterator[None]:
        """Note the seconds of a block, also of one cut off. With anew = False, earlier attempts' are added."""
        started, before = time.monotonic(), 0.0 if anew else self.record["seconds"].get(what, 0.0)
        try:
            yield
        finally:
            self.record["seconds"][what] = round(before + time.monotonic() - started, 1)
            write_json(self.out / RECORD, self.record)

    def verb(self, framework: Framework, words: Sequence[str | Path]) -> None:
        """Run a verb of a twin and note the command."""
        line = " ".join(["python -m", PACKAGES[framework], *(self.shown(word) for word in words)])
        if line not in self.record["commands"]:
            self.record["commands"].append(line)
        run_verb(framework, [str(word) for word in words], root=self.root)

    def shown(self, word: str | Path) -> str:
        """A word of a command as a reader would type it: paths from the checkout."""
        inside = isinstance(word, Path) and word.is_relative_to(self.root)
        return str(Path(word).relative_to(self.root)) if inside else str(word)


def open_demo(out: Path, config: Path, n: int, fresh: bool, root: Path) -> DemoFolder:
    """A new demo's folder, or one to go on with.

    Raises:
        ValueError: the folder holds something else, or a demo of another recipe; n out of range; a recipe that cannot
            be read.
    """
    if n < 2:
        raise ValueError(f"--n {n}: must be at least 2")
    recipe, record_path = load_recipe(config), out / RECORD
    if out.exists() and not record_path.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: is no demo's folder and not empty: name one that is free")
    if fresh and record_path.is_file():
        for name in OWN:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    record: dict[str, Any] = {"recipe": to_dict(recipe), "seconds": {}, "first_step_seconds": {}, "commands": []}
    if record_path.is_file():
        kinds = {"recipe": dict, "seconds": dict, "first_step_seconds": dict, "commands": list}
        record = {key: value for key, value in read_json(record_path, kinds).items() if key in kinds}
        for key in ("seconds", "first_step_seconds"):
            check_kinds(f"{record_path}: {key}", record[key], dict.fromkeys(record[key], float))
        for word in record["commands"]:
            check_kinds(f"{record_path}: commands", {"a command": word}, {"a command": str})
        if record["recipe"] != to_dict(recipe):
            raise ValueError(
                f"--out {out}: holds a demo of another recipe; add --fresh to replace it, or name another --out"
            )
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(record_path, record)
    return DemoFolder(out, config, recipe, n, root, record)


def trained_steps(run: Path) -> int:
    """Optimiser steps at a run's last checkpoint; 0 where there is none."""
    if not (run / "latest").is_file():
        return 0
    return int(read_json(resolve_checkpoint(run) / "training_state.json", {"step": int})["step"])


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, of which there must be one."""
    folder = RunFolder(run)
    lines = folder.metrics()
    if not lines:
        raise ValueError(f"{folder.metrics_path}: holds no line; train again with --fresh")
    for line in lines:
        kinds = {"seconds": float, "images_per_second": float}
        check_kinds(f"{folder.metrics_path}, step {line['step']}", line, kinds)
    return lines


def first_step_seconds(run: Path, started: float) -> float:
    """Seconds from the start of Python to the end of the first optimiser step, from what a new run left behind.

    run.json is written when the loop begins. The first line of metrics.jsonl says when its steps were done; all but the
    first step are assumed to take as long as later ones.
    """
    first, *later = read_metrics(run)
    pace = statistics.median(line["images_per_second"] for line in later or [first])
    batch_size = load_recipe(run / "recipe.json").training.batch_size
    loop = (run / "run.json").stat().st_mtime - started
    return round(max(float(loop + first["seconds"] - (first["step"] - 1) * batch_size / pace), 0.0), 1)
