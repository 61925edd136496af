"""The study `screening`: one change of a recipe at a time, each trained for the same processor time."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.config import Recipe
from core.config.recipes import from_dict, to_dict
from core.files import write_json, write_text_atomic
from core.reading import read_json
from eval.pages.tables import markdown_table, number, replace_between
from eval.twins.client import Worker, run_verb
from eval.twins.interpreters import ROOT, Interpreters
from eval.verbs import main
from eval.verbs.demo_folder import trained_steps
from eval.verbs.fid import Fid

log = logging.getLogger(__name__)

PAGE = ROOT / "docs" / "recipe.md"
BEGIN, END = "<!-- screening: begin -->\n", "<!-- screening: end -->\n"
SETTLING, TIMED = 3, 9
"""Steps before those that are timed, and timed ones, whose median counts."""


@dataclass(frozen=True)
class Change:
    """A change of the recipe."""

    what: str
    """What is changed, in the table's words."""
    flags: str = ""
    """The flags of `train` that change it."""


CHANGES: dict[str, Change] = {
    "recipe": Change("the recipe"),
    "no-stretch": Change("no stretch", "--process.stretch 0"),
    "adam": Change("Adam in place of Muon", "--training.optimizer adam"),
    "uniform": Change("uniform timesteps", "--training.timestep-sampling uniform"),
    "no-patches": Change("no patches", "--model.patch-size 1"),
    "patch-4": Change(
        "patches of 4, two levels",
        "--model.patch-size 4 --model.block-out-channels 64 64 --model.down-block-types DownBlock2D AttnDownBlock2D "
        "--model.up-block-types AttnUpBlock2D UpBlock2D",
    ),
    "narrow": Change("32, 32, 32 channels", "--model.block-out-channels 32 32 32"),
    "wide": Change("64, 64, 64 channels", "--model.block-out-channels 64 64 64"),
    "muon-0.02": Change("Muon's learning rate 0.02", "--training.muon-learning-rate 0.02"),
    "muon-0.005": Change("Muon's learning rate 0.005", "--training.muon-learning-rate 0.005"),
    "batch-32": Change("batches of 32", "--training.batch-size 32"),
    "more-noise": Change("noise levels: mean log sigma -1.2", "--training.p-mean -1.2"),
    "less-noise": Change("noise levels: mean log sigma -2.6", "--training.p-mean -2.6"),
    "scale-shift": Change("the timestep scales and shifts", "--model.resnet-time-scale-shift scale_shift"),
    "min-snr": Change("min-SNR weight", "--process.loss-weight min_snr"),
    "flow": Change("flow matching", "--process.schedule flow --process.prediction flow --sampling.sampler flow_heun"),
    "late-decay": Change("learning rates decay from 0.4 of the steps on", "--training.decay-start 0.4"),
}


@dataclass(frozen=True, kw_only=True)
class Screening(Interpreters):
    """Train a recipe and changes of it for the same processor time, measure each, and write a table.

    A change's optimiser step is timed on one thread, and it gets the steps that fit into the time. So a busy machine
    changes no result. Finished trainings are not done again. It takes some eight minutes a change on one core.

    Examples:
      python -m eval.studies.screening
      python -m eval.studies.screening --only recipe adam --page docs/recipe.md
    """

    config: str = "configs/lens-64-fast.toml"
    """The recipe."""
    only: tuple[str, ...] = tuple(CHANGES)
    """Names of the changes to try."""
    seconds: float = 350.0
    """Processor seconds of each training, on one thread."""
    n: int = 1000
    """Number of images to draw and to measure against as many real ones."""
    out: Path = Path("runs/screening")
    """Folder of runs and results."""
    page: Path | None = None
    """File whose table is replaced; OUT/table.md where not given."""

    def execute(self) -> str:
        """Train and measure what is missing, and write the table."""
        for name in self.only:
            if name not in CHANGES:
                raise ValueError(f"--only {name}: must be among {', '.join(CHANGES)}")
        results = {name: self._result(name) for name in self.only}
        target = self.page or self.out / "table.md"
        if self.page is None:
            write_text_atomic(target, table(results) + "\n")
        else:
            replace_between(target, BEGIN, END, table(results))
        return f"wrote {target}"

    def _result(self, name: str) -> Mapping[str, Any]:
        """The result of a change, from its file or made anew."""
        folder = self.out.resolve() / name
        path, flags = folder / "result.json", CHANGES[name].flags.split()
        asked = {"config": self.config, "flags": flags, "seconds": self.seconds, "n": self.n}
        if path.is_file() and (held := read_json(path))["asked"] == asked:
            return held
        run, samples, timed = folder / "run", folder / "samples", folder / "timed.json"
        base = ["train", "--config", self.config, "--run", str(run), "--training.threads", "1", *flags]
        if not timed.is_file() or read_json(timed)["asked"] != asked:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            recipe, _ = json.JSONDecoder().raw_decode(run_verb("torch", [*base, "--dry-run"]))
            write_json(timed, {"asked": asked, "step": step_seconds(from_dict(Recipe, recipe))})
        step = read_json(timed)["step"]
        steps = max(int(self.seconds / step), 1)
        log.info("%s: %d steps of %.3f s", name, steps, step)
        done = trained_steps(run) if run.exists() else 0
        if done < steps:
            words = ["train", "--resume", str(run)] if done else [*base, "--training.steps", str(steps)]
            run_verb("torch", words, threads=1)
        drawn = ["sample", str(run), "--n", str(self.n), "--seed", "0", "--out", str(samples), "--overwrite"]
        run_verb("torch", drawn, threads=1)
        measured = Fid(real=str(run), generated=str(samples), n=self.n, framework="torch", out=str(folder / "fid.json"))
        measured.execute()
        fid = read_json(folder / "fid.json")
        write_json(path, {"asked": asked, "step": step, "steps": steps, **{k: fid[k] for k in ("frechet", "floor")}})
        return read_json(path)


def step_seconds(recipe: Recipe) -> float:
    """Median seconds of an optimiser step on one thread."""
    with Worker("torch", threads=1, timeout=3600.0) as worker:
        times = worker.call("time_training", recipe=to_dict(recipe), steps=SETTLING + TIMED)[0]["seconds"]
    return float(np.median(times[SETTLING:]))


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table with a row a change."""
    rows = []
    for name, result in results.items():
        frechet = result["frechet"]
        interval = f"{number(frechet['value'])} [{number(frechet['low'])}, {number(frechet['high'])}]"
        rows.append([CHANGES[name].what, f"{1000 * result['step']:.0f}", f"{result['steps']:,}", interval])
    return markdown_table(["Change", "ms a step", "Steps", "Fréchet distance [95 % interval]"], rows)


if __name__ == "__main__":
    sys.exit(main(Screening, "python -m eval.studies.screening"))
