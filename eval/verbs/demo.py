"""The demo: both frameworks trained on the same images, sampled with the same noise, held against images neither has seen.

Imports NumPy, core and eval's own modules; the twins are started as programs (`eval.twins.client.run_verb`), one after the other,
since two trainings at once on the same cores are several times slower. A demo that was cut off goes on where it stopped.
The page is made in eval/pages/demo_page.py.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.checkpoint import WEIGHTS_FILE, resolve_checkpoint
from core.data.dataset import Dataset, open_dataset
from core.files import file_hash, read_json, write_json
from eval.measure.compare import compare
from eval.pages.demo_page import TITLES, Material, write_page
from eval.pages.demo_picture import save_picture
from eval.twins.client import ROOT, Framework, find_python
from eval.verbs.demo_folder import Demo, first_step_seconds, open_demo, read_metrics, trained_steps

log = logging.getLogger(__name__)

FRAMEWORKS: tuple[Framework, ...] = ("torch", "tensorflow")
PHASES = 6
SEED = 1
PROOF = 64
"""Images that both frameworks draw with the same weights."""


def announce(number: int, text: str) -> None:
    """The line that opens a phase."""
    log.info("%d/%d %s", number, PHASES, text)


def prepare(demo: Demo) -> Dataset:
    """Phase 1: images to train on, and those held out, in the cache that both twins read."""
    data = demo.recipe.data
    simulated = data.source.startswith("simulate:")
    what = f"simulate {data.simulate_count:,} images" if simulated else f"prepare {data.source}"
    announce(1, what)
    source = data.source if simulated else str(demo.root / data.source)
    with demo.timed("data", anew=False):
        # The twins run in the checkout, and read relative paths from there.
        here = dataclasses.replace(data, cache=str(demo.root / data.cache), source=source)
        dataset = open_dataset(here, demo.recipe.image_shape)
    if len(dataset.held_out) < 4:
        raise ValueError(
            f"data.held_out = {data.held_out}: leaves {len(dataset.held_out)} images to compare with: must leave at least 4"
        )
    return dataset


def train(demo: Demo, framework: Framework, number: int) -> None:
    """Phases 2 and 3: a run of the recipe, from its last checkpoint where there is one."""
    run, steps = demo.out / framework, demo.recipe.training.steps
    done = trained_steps(run)
    if done >= steps:
        announce(number, f"train in {TITLES[framework]}: done before, {done:,} steps")
        return
    announce(number, f"train in {TITLES[framework]}: {steps:,} steps" + (f", going on from {done:,}" if done else ""))
    started = time.time()
    with demo.timed(f"train {framework}", anew=not done):
        if done:
            demo.verb(framework, ["train", "--resume", run])
        else:
            shutil.rmtree(run, ignore_errors=True)
            demo.verb(framework, ["train", "--config", demo.config, "--run", run])
            demo.record["first_step_seconds"][framework] = first_step_seconds(run, started)


def sample(demo: Demo, framework: Framework, weights: Framework, n: int) -> Path:
    """Draw n images with one framework from the run of one (or the other), unless they are there already."""
    run = demo.out / weights
    out = demo.out / "samples" / (framework if framework == weights else f"{framework}-with-{weights}-weights")
    checkpoint = resolve_checkpoint(run)
    made_from = {"n": n, "seed": SEED, "weights_sha256": file_hash(checkpoint / "unet" / WEIGHTS_FILE)}
    if (out / "manifest.json").is_file():
        manifest = read_json(out / "manifest.json")
        if all(manifest.get(key) == value for key, value in made_from.items()):
            return out
    with demo.timed(f"sample {out.name}"):
        words: list[str | Path] = ["sample", "--checkpoint", run, "--n", str(n), "--seed", str(SEED), "--out", out]
        demo.verb(framework, [*words, "--overwrite"])
    return out


def run(
    config: str,
    out: str,
    *,
    n: int = 512,
    fresh: bool = False,
    pythons: Mapping[Framework, str | None] | None = None,
    root: Path = ROOT,
) -> Path:
    """Run the demo, or what is left of it.

    Args:
        config: the recipe's file.
        out: folder of the demo: runs, samples, demo.json, compare.json, picture.png, report.html.
        n: images to draw from each framework's network, at least 2.
        fresh: start anew where the folder holds a demo.
        pythons: framework -> its interpreter, as find_python's override.
        root: the checkout.
    Returns:
        The page's path.
    Raises:
        ValueError: input that the user must change; RuntimeError: a twin failed; OSError: disk full or not writable.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    for framework in FRAMEWORKS:  # said now, not after minutes of training the other
        find_python(framework, (pythons or {}).get(framework), root)
    demo = open_demo(Path(out).resolve(), Path(config).resolve(), n, fresh, pythons or {}, root)
    try:
        dataset = prepare(demo)
        for number, framework in enumerate(FRAMEWORKS, 2):
            train(demo, framework, number)
        announce(4, f"sample {n:,} images from each, and {min(n, PROOF)} from the same weights in both")
        folders = {framework: sample(demo, framework, framework, n) for framework in FRAMEWORKS}
        swapped = sample(demo, "tensorflow", "torch", min(n, PROOF))
        announce(5, "compare both with images that were held out of training")
        material = gather(demo, dataset, folders, swapped)
        with demo.timed("compare"):
            data = demo.recipe.data
            simulated = data.source.startswith("simulate:")
            scale = data.field_of_view / min(demo.recipe.model.sample_size) if simulated else None
            result = compare(material.real, material.generated, material.train, pixel_scale=scale)
            write_json(demo.out / "compare.json", result)
        announce(6, "write the page")
        save_picture(demo.out / "picture.png", material)
        write_page(demo.out / "report.html", material, result)
    except KeyboardInterrupt:
        log.info("the same command goes on from here")
        raise
    return Path(out) / "report.html"


def gather(demo: Demo, dataset: Dataset, folders: Mapping[Framework, Path], swapped: Path) -> Material:
    """Everything that the page shows."""

    def images(folder: Path) -> Any:
        return np.load(folder / "samples.npy", allow_pickle=False)

    return Material(
        recipe=demo.recipe,
        real=np.asarray(dataset.images[dataset.held_out]),
        train=np.asarray(dataset.images[dataset.train]),
        generated={TITLES[framework]: images(folder) for framework, folder in folders.items()},
        same_weights=images(swapped),
        metrics={TITLES[framework]: read_metrics(demo.out / framework) for framework in FRAMEWORKS},
        manifests={TITLES[framework]: read_json(folder / "manifest.json") for framework, folder in folders.items()},
        record=demo.record,
    )
