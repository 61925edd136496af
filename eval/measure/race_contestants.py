"""The contestants of the race: each trains for the same seconds in a process of its own, and draws images."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.arrays import read_npy
from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.run_folder import RunFolder
from core.config.recipes import load_recipe, to_dict
from core.exits import RunError
from core.files import write_json
from core.networks.specs import count_parameters
from core.reading import read_json
from eval.measure.race_sets import Course
from eval.measure.race_table import CONTESTANTS, Contestant, ContestantName
from eval.twins.client import run_program, run_verb
from eval.twins.interpreters import ROOT, Framework
from eval.twins.race_environment import peers_python

FEWER = 1000
"""Images that a contestant draws where more would take longer than DRAWING_SECONDS."""
DRAWING_SECONDS = 600.0
FACTS: dict[str, type] = {
    "seconds": float,
    "steps": int,
    "images_seen": int,
    "parameters": int,
    "drawing_seconds": float,
    "n": int,
    "sampler": str,
    "evaluations": int,
    "versions": dict,
}
"""What is noted of every contestant."""


@dataclass(frozen=True)
class Start:
    """One training of the race."""

    course: Course
    contestant: ContestantName
    minutes: float
    seed: int
    n: int
    threads: int
    root: Path = ROOT

    @property
    def key(self) -> str:
        """Name of its files in the folder of the race."""
        return f"{self.course.name}-{self.minutes:g}min-{self.contestant}-seed{self.seed}"

    def made_from(self) -> dict[str, Any]:
        """What the result depends on."""
        return {
            "set": self.course.name,
            "contestant": self.contestant,
            "minutes": self.minutes,
            "seed": self.seed,
            "n": self.n,
            "threads": self.threads,
            "course_sha256": self.course.fingerprint(),
        }


def train_and_draw(start: Start, work: Path) -> dict[str, Any]:
    """Train a contestant and draw from it.

    Args:
        start: who, on what, for how long.
        work: folder for samples.npy and all that the contestant writes; an earlier one is removed.
    Returns:
        FACTS by name.
    Raises:
        ValueError: input that the user must change. RunError: the contestant failed.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    contestant = CONTESTANTS[start.contestant]
    facts = _ours(start, work, contestant.framework) if contestant.framework else _peer(start, work, contestant)
    shape, expected = read_npy(work / "samples.npy").shape, (facts["n"], *start.course.recipe.image_shape)
    if shape != expected:
        raise RunError(f"{start.key}: drew images of {shape}: must be {expected}")
    return facts


def _ours(start: Start, work: Path, framework: Framework) -> dict[str, Any]:
    """`train --minutes` and `sample` of a twin; what its files say."""
    recipe, run, samples = start.course.recipe, work / "run", work / "samples"
    recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, seed=start.seed))
    write_json(work / "recipe.json", to_dict(recipe))
    words: list[str | Path] = ["train", "--config", work / "recipe.json", "--run", run, "--device", "cpu"]
    words += ["--minutes", f"{start.minutes:g}"]
    run_verb(framework, [str(w) for w in words], threads=start.threads, root=start.root)
    words = ["sample", run, "--n", str(start.n), "--seed", str(start.seed), "--out", samples, "--device", "cpu"]
    words += ["--threads", str(start.threads)]
    run_verb(framework, [str(w) for w in words], threads=start.threads, root=start.root)
    manifest, versions = read_json(samples / "manifest.json"), read_json(run / "run.json")
    trained, progress = load_recipe(run / "recipe.json"), read_json(resolve_checkpoint(run) / "training_state.json")
    (samples / "samples.npy").rename(work / "samples.npy")
    return {
        "seconds": without_first_step(RunFolder(run).metrics(), progress["seconds"]),
        "steps": trained.training.steps,
        "images_seen": trained.training.steps * trained.training.batch_size,
        "parameters": count_parameters(trained.model),
        "drawing_seconds": manifest["seconds"],
        "n": start.n,
        "sampler": f"{manifest['sampler']}, {manifest['steps']} steps, {manifest['spacing']}",
        "evaluations": manifest["nfe"],
        "versions": {versions["framework"]: versions["version"]},
    }


def without_first_step(lines: list[dict[str, Any]], seconds: float) -> float:
    """Seconds of a training without what its first step took longer than the others, which is mostly compilation.

    Args:
        lines: of metrics.jsonl. The steps before the first line are taken to be as fast as those after it.
        seconds: of the whole training.
    """
    first, last = lines[0], lines[-1]
    later = last["step"] - first["step"]
    return float((last["seconds"] - first["seconds"]) * last["step"] / later) if later else seconds


def _peer(start: Start, work: Path, contestant: Contestant) -> dict[str, Any]:
    """A peer's script in the environment of the race; what it says."""
    job = {
        "images": str(start.course.train_images()),
        "recipe": to_dict(start.course.recipe),
        "matched": contestant.matched,
        "seconds": 60 * start.minutes,
        "seed": start.seed,
        "n": start.n,
        "fewer": FEWER,
        "drawing_seconds": DRAWING_SECONDS,
        "threads": start.threads,
        "out": str(work),
    }
    write_json(work / "job.json", job)
    command = [*peers_python(start.root), "-m", contestant.script, str(work / "job.json")]
    run_program(command, contestant.script, threads=start.threads, root=start.root)
    facts = read_json(work / "facts.json", FACTS)
    return {name: facts[name] for name in FACTS}
