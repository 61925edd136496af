"""The study `baseline`: what the choices of an earlier project cost, measured on one network drawn from in several
ways.

A study that was cut off goes on where it stopped. Its results are in docs/baseline.md.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.arrays import read_npz
from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import Trained, open_trained
from core.config import ProcessConfig
from core.config.recipes import load_recipe, to_dict
from core.data.dataset import open_dataset
from core.diffusion.table import Row
from core.files import write_json, write_npz, write_text_atomic
from core.images import grid, save_png
from core.random import gaussian
from core.reading import read_json
from eval.studies.baseline_table import measure, table
from eval.studies.baseline_ways import GROUP, SCALES, WAYS, Images, Way, reverse_rows, spaced_levels
from eval.twins.client import Worker, run_verb
from eval.twins.interpreters import ROOT, Interpreters
from eval.verbs import main
from eval.verbs.demo_folder import trained_steps

log = logging.getLogger(__name__)

FIELD_OF_VIEW = 5.0
PROBE = 100
"""Steps of the U-Net from which its pace is known."""
SHOWN = 14
NETWORKS = {
    "baseline": "--config configs/baseline-64.toml --model.sample-size 32 32 --model.block-out-channels 16 32 64 64 "
    "--training.accumulate 1 --training.sample-every 0",
    "U-Net": "--config configs/demo.toml",
}
# The original's process and optimiser, but for a learning rate that a run of minutes needs; the same for both networks.
TRAINING = (
    "--process.schedule linear --process.prediction eps --training.optimizer adamw --training.weight-decay 0.01 "
    "--training.learning-rate 1e-3 --training.decay constant --training.warmup-steps 20 --training.batch-size 16 "
    "--training.ema-decay 0.995 --training.log-every 10 --training.checkpoint-every 100 --training.sample-count 0 "
    f"--data.held-out 0.175 --data.field-of-view {FIELD_OF_VIEW}"
)


@dataclass(frozen=True, kw_only=True)
class BaselineStudy(Interpreters):
    """Train the baseline network at 32 x 32 and measure what each of the original's choices costs.

    Writes study.json, table.md and pictures.png. 25 minutes on two CPU cores; a study that was cut off goes on.

    Examples:
      python -m eval.studies.baseline
      python -m eval.studies.baseline --networks runs/baseline-study --n 8 --seeds 1 --evaluations 1000 --out
      runs/all-levels
    """

    out: Path = Path("runs/baseline-study")
    """Folder of the study."""
    networks: Path | None = None
    """Folder of another study whose networks are drawn from; none are trained then."""
    steps: int = 600
    """Optimiser steps of the baseline network; the U-Net trains for as many seconds."""
    images: int = 6500
    """Images to simulate, of which 17.5 % are held out."""
    n: int = 500
    """Images to draw in every way and of every seed."""
    seeds: int = 2
    """Seeds of the noise, over which the spread is taken."""
    evaluations: int = 30
    """Evaluations of the network an image, the one at t = 0 included."""
    threads: int = 0
    """CPU threads; 0 for PyTorch's choice."""

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("images", 30), ("n", 2), ("seeds", 1), ("threads", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {low}")
        spaced_levels(self.evaluations, ProcessConfig().timesteps)  # refuses what does not fit

    @property
    def runs(self) -> Path:
        """Where the networks are."""
        return (self.networks or self.out).resolve()

    def execute(self) -> str:
        """Make the study, or what is missing of it; the table."""
        return make_study(self).rstrip("\n")


def train(study: BaselineStudy, name: str, steps: int, root: Path) -> tuple[int, float]:
    """Train a network up to some steps, from where it is; its steps and the seconds that they took."""
    run = study.runs / name
    done = trained_steps(run)
    if done < steps:
        log.info("train the %s: steps %d to %d", name, done, steps)
        words = ["--resume", str(run)]
        if not done:
            shutil.rmtree(run, ignore_errors=True)
            words = [*f"{NETWORKS[name]} {TRAINING} --data.simulate-count {study.images}".split(), "--run", str(run)]
            words[1] = str(ROOT / words[1])
        words += ["--training.steps", str(steps), "--training.threads", str(study.threads)]
        run_verb("torch", ["train", *words], root=root)
    progress = read_json(resolve_checkpoint(run) / "training_state.json")
    return int(progress["step"]), float(progress["seconds"])


def train_both(study: BaselineStudy, root: Path) -> dict[str, dict[str, float]]:
    """Train the baseline for its steps and the U-Net for as many seconds: steps and seconds of each."""
    if study.networks is None:
        _, limit = train(study, "baseline", study.steps, root)
        step, seconds = train(study, "U-Net", PROBE, root)
        while seconds < 0.97 * limit:
            step, seconds = train(study, "U-Net", step + math.ceil((limit - seconds) * step / seconds), root)
    found = {name: train(study, name, 0, root) for name in NETWORKS}
    return {name: {"steps": step, "seconds": seconds} for name, (step, seconds) in found.items()}


def draw(study: BaselineStudy, worker: Worker, way: Way, seed: int) -> Images:
    """(n, H, W, C) ends of the reverse loop in the network's range, not clipped; ways share what is drawn."""
    folder = study.out / "drawn" / f"{way.network}-{way.weights}-{'clip' if way.clip else 'free'}-seed{seed}"
    source = open_trained(resolve_checkpoint(study.runs / way.network), way.weights)
    parts = []
    for first in range(0, study.n, GROUP):
        path = folder / f"{first:05d}.npz"
        if not path.is_file():
            log.info("draw %s, images %d and on", folder.name, first)
            samples = range(first, min(first + GROUP, study.n))
            write_npz(path, draw_group(source, worker, way.clip, study.evaluations, seed, samples))
        parts.append(read_npz(path)["stopped" if way.stop else "whole"])
    return np.concatenate(parts)


def draw_group(
    source: Trained, worker: Worker, clip: bool, evaluations: int, seed: int, samples: range
) -> dict[str, Images]:
    """Both ends of the same images: `whole`, and `stopped` as the original stops; all but the last steps are shared."""
    levels = spaced_levels(evaluations, source.process.timesteps)
    whole, stopped = (reverse_rows(source.process, levels, clip, stop) for stop in (False, True))
    weights = {f"weights/{name}": value for name, value in source.weights.items()}
    options = {"model": to_dict(source.model), "seed": seed, "clip": clip, "first": samples[0]}

    def go_on(x: Images, rows: Sequence[Row], first_row: int) -> Images:
        columns = {key: np.array([getattr(row, key) for row in rows]) for key in ("t", "p", "q", "s", "matrix")}
        return worker.call("run_table", {"x": x, **columns, **weights}, first_row=first_row, **options)[0]["x"]

    shape, shared = (*source.model.sample_size, source.model.in_channels), len(whole) - 2
    x_1 = go_on(gaussian(seed, "x_T", samples, 0, shape, source.dtype), whole[:shared], 0)
    return {"whole": go_on(x_1, whole[shared:], shared), "stopped": go_on(x_1, stopped[shared:], shared)}


def make_study(study: BaselineStudy, root: Path = ROOT) -> str:
    """Make the study, or what is missing of it; the table as text.

    Raises:
        ValueError: the folder holds a study of other settings, or an option that the user must change.
        RunError: a twin failed.
    """
    study = dataclasses.replace(study, out=study.out.resolve())
    settings = {
        k: v for k, v in dataclasses.asdict(study).items() if k not in ("out", "threads", "torch_python", "tf_python")
    }
    settings["networks"] = study.networks and str(study.runs)
    record = study.out / "study.json"
    if record.is_file():
        if (held := read_json(record)["settings"]) != settings:
            raise ValueError(f"--out {study.out}: holds a study of other settings, {held}; name another")
    elif study.out.exists() and (not study.out.is_dir() or any(study.out.iterdir())):
        raise ValueError(f"--out {study.out}: is no study's folder and not empty: name one that is free")
    else:
        study.out.mkdir(parents=True)
        write_json(record, {"settings": settings})
    trained = train_both(study, root)
    with Worker("torch", threads=study.threads, timeout=3600.0, root=root) as worker:
        ends = [{name: draw(study, worker, way, seed) for name, way in WAYS.items()} for seed in range(study.seeds)]
    sets = [{name: SCALES[way.scale](drawn[name]) for name, way in WAYS.items()} for drawn in ends]
    recipe = load_recipe(study.runs / "baseline" / "recipe.json")
    data = dataclasses.replace(recipe.data, cache=str(root / recipe.data.cache))
    dataset = open_dataset(data, recipe.image_shape)
    real = np.asarray(dataset.images[dataset.held_out])
    metrics = measure(real, sets, FIELD_OF_VIEW / real.shape[1])
    ranges = {name: (min(float(e[name].min()) for e in ends), max(float(e[name].max()) for e in ends)) for name in WAYS}
    text = table(metrics, ranges)
    shown = min(SHOWN, study.n, len(real))
    rows = [images[:shown] for images in (real, *sets[0].values())]
    save_png(study.out / "pictures.png", grid(np.concatenate(rows), shown))
    write_text_atomic(study.out / "table.md", text)
    write_json(record, {"settings": settings, "trained": trained, "metrics": metrics, "ranges": ranges})
    return text


if __name__ == "__main__":
    sys.exit(main(BaselineStudy, "python -m eval.studies.baseline"))
