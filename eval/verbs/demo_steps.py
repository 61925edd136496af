"""The demo's six phases: both frameworks trained on the same images, sampled with the same noise, and compared.
 One framework runs after the other: two trainings at once on the same cores are several times slower. A demo that was
cut off goes on where it stopped.
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

from core.arrays import read_npy
from core.data.dataset import Dataset, open_dataset
from core.reading import read_json
from eval.measure.compare import compare
from eval.pages.demo_page import Material, write_demo_page
from eval.pages.demo_picture import save_picture
from eval.pages.page import write_result
from eval.twins.drawn import holds, weights_hash
from eval.twins.interpreters import FRAMEWORKS, ROOT, TITLES, Framework, find_python
from eval.verbs.demo_folder import DemoFolder, first_step_seconds, open_demo, read_metrics, trained_steps

log = logging.getLogger(__name__)

PHASES = 6
SEED = 1
PROOF = 64
"""Images that both frameworks draw with the same weights."""


def announce(number: int, text: str) -> None:
    """The line that opens a phase."""
    log.info("%d/%d %s", number, PHASES, text)


def prepare(demo: DemoFolder) -> Dataset:
    """Phase 1: images to train on, and those held out, in the cache that both twins read."""
    data = demo.recipe.data
    simulated = data.source.startswith("simulate:")
    announce(1, f"simulate {data.simulate_count:,} images" if simulated else f"prepare {data.source}")
    source = data.source if simulated else str(demo.root / data.source)
    with demo.timed("data", anew=False):
        # The twins run in the checkout, and read relative paths from there.
        here = dataclasses.replace(data, cache=str(demo.root / data.cache), source=source)
        dataset = open_dataset(here, demo.recipe.image_shape)
    if len(dataset.held_out) < 4:
        count = len(dataset.held_out)
        raise ValueError(
            f"data.held_out = {data.held_out}: leaves {count} images to compare with: must leave at least 4"
        )
    return dataset


def train(demo: DemoFolder, framework: Framework, number: int) -> None:
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


def sample(demo: DemoFolder, framework: Framework, weights: Framework, n: int) -> Path:
    """Draw n images in one framework with the weights that one of them trained, unless they are there already."""
    run = demo.out / weights
    out = demo.out / "samples" / (framework if framework == weights else f"{framework}-with-{weights}-weights")
    if not holds(out, {"n": n, "seed": SEED, "weights_sha256": weights_hash(run)}):
        with demo.timed(f"sample {out.name}"):
            words: list[str | Path] = ["sample", "--checkpoint", run, "--n", str(n), "--seed", str(SEED), "--out", out]
            demo.verb(framework, [*words, "--overwrite"])
    return out


def make_demo(config: str, out: str, n: int = 512, fresh: bool = False, root: Path = ROOT) -> Path:
    """Run the demo, or what is left of it.

    Args:
        config: the recipe's file.
        out: folder of the demo: runs, samples, demo.json, compare.json, picture.png, report.html.
        n: how many images each framework's network draws, at least 2.
        fresh: start anew where the folder holds a demo.
        root: the checkout.
    Returns:
        The page's path.
    Raises:
        ValueError: input that the user must change; RunError: a twin failed; OSError: disk full or not writable.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    for framework in FRAMEWORKS:  # said now, not after minutes of training the other
        find_python(framework, root)
    demo = open_demo(Path(out).resolve(), Path(config).resolve(), n, fresh, root)
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
            write_result(demo.out / "compare.json", result)
        announce(6, "write the page")
        save_picture(demo.out / "picture.png", material)
        write_demo_page(demo.out / "report.html", material, result)
    except KeyboardInterrupt:
        log.info("the same command goes on from here")
        raise
    return Path(out) / "report.html"


def gather(demo: DemoFolder, dataset: Dataset, folders: Mapping[Framework, Path], swapped: Path) -> Material:
    """Everything that the page shows."""

    def images(folder: Path) -> Any:
        return read_npy(folder / "samples.npy")

    return Material(
        recipe=demo.recipe,
        real=np.asarray(dataset.images[dataset.held_out]),
        train=np.asarray(dataset.images[dataset.train]),
        generated={TITLES[framework]: images(folder) for framework, folder in folders.items()},
        same_weights=images(swapped),
        metrics={TITLES[framework]: read_metrics(demo.out / framework) for framework in FRAMEWORKS},
        manifests={
            TITLES[framework]: read_json(folder / "manifest.json", {"steps": int, "seconds": float, "n": int})
            for framework, folder in folders.items()
        },
        record=demo.record,
    )
