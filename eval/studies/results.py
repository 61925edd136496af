"""The study `results`: two sets of images and both frameworks, trained, drawn from, measured and shown.

Finished parts are not done again, and a training that was cut off goes on. Its results are in docs/results.md.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.arrays import read_npy
from core.checkpoints.checkpoint import resolve_checkpoint
from core.config import Recipe
from core.config.recipes import load_recipe
from core.data.dataset import Dataset, open_dataset
from core.files import write_json, write_text_atomic
from core.reading import read_json
from eval.measure.compare import compare
from eval.measure.image_sets import ImageSet
from eval.measure.machine import machine
from eval.studies.reference_speed import images_per_second
from eval.studies.results_page import Found, Outcome, page
from eval.studies.results_picture import COLUMNS, save_picture, shown
from eval.studies.results_place import Place, ResultsOptions, SetName
from eval.twins.drawn import holds
from eval.twins.features import open_extractor
from eval.twins.interpreters import FRAMEWORKS, ROOT, TITLES, Interpreters, find_python
from eval.verbs import main
from eval.verbs.demo_folder import read_metrics, trained_steps
from eval.verbs.fid import Fid

log = logging.getLogger(__name__)

VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")
"""Environment variables that change times. The page names those that are set."""


def train(place: Place, recipe: Recipe) -> None:
    """Train, or go on from the last checkpoint; nothing where all steps are done.

    Raises:
        ValueError: the run that is there is of another recipe.
    """
    done, steps = trained_steps(place.run), recipe.training.steps
    if done and load_recipe(place.run / "recipe.json") != recipe:
        raise ValueError(f"{place.run}: holds a run of another recipe than {place.config}; name another --out")
    if done >= steps:
        log.info("%s, %s: trained before, %d steps", place.name, TITLES[place.framework], done)
        return
    log.info("%s, %s: train from step %d to %d", place.name, TITLES[place.framework], done, steps)
    before = images_per_second() if place.way.minutes else 0.0
    if done:
        place.verb("train", "--resume", place.run)
    else:
        shutil.rmtree(place.run, ignore_errors=True)
        place.verb(*place.training())
    if place.way.minutes:
        write_json(place.speeds, {"before": before, "after": images_per_second()})


def draw(place: Place) -> None:
    """Draw the images, unless they are there."""
    made_from = {"n": place.study.n, "seed": 0, "first": 0, "weights_sha256": place.weights()}
    if not holds(place.samples, made_from):
        log.info("%s, %s: draw %s images", place.name, TITLES[place.framework], f"{place.study.n:,}")
        place.verb(*place.drawing(), "--overwrite")


def score(place: Place) -> None:
    """Measure the distance and all beside it, unless it is measured."""
    extractor, study = open_extractor(place.way.extractor), place.study
    if place.result.is_file():
        held = read_json(place.result)
        same = held["generated"].get("weights_sha256") == place.weights() and held["n"] == {
            "real": study.n,
            "generated": study.n,
        }
        same = same and held["eight_bit"] == place.way.eight_bit
        if same and extractor.about().items() <= held["extractor"].items():
            return
    fid = Fid(
        real=str(place.brief(place.run)),
        generated=str(place.brief(place.samples)),
        extractor=place.way.extractor,
        n=study.n,
        eight_bit=place.way.eight_bit,
        framework=place.framework,
        out=str(place.result),
    )
    log.info("%s, %s:\n%s", place.name, TITLES[place.framework], fid.execute())


def images(place: Place) -> Any:
    """The drawn images, rounded to 8 bits where the real ones are."""
    drawn = ImageSet(str(place.samples), read_npy(place.samples / "samples.npy"))
    return (drawn.rounded() if place.way.eight_bit else drawn).images


def beside(study: ResultsOptions, name: SetName, places: Sequence[Place], dataset: Dataset) -> dict[str, Any]:
    """compare.json: the set's other distances and the nearest training images, made anew for other images."""
    path, weights = study.out / name / "compare.json", [place.weights() for place in places]
    if path.is_file() and (held := read_json(path))["made_from"] == [*weights, study.n]:
        return dict(held)
    log.info("%s: compare pixels, spectra and nearest training images", name)
    real, seen = (np.asarray(dataset.images[part]) for part in (dataset.held_out, dataset.train))
    result = compare(real, {TITLES[place.framework]: images(place) for place in places}, seen)
    kept = {key: result[key] for key in ("protocol", "metrics", "nearest")} | {"made_from": [*weights, study.n]}
    write_json(path, kept)
    return kept


def find(place: Place, recipe: Recipe) -> Found:
    """What the files say of one network."""
    progress = read_json(resolve_checkpoint(place.run) / "training_state.json")
    return Found(
        recipe,
        progress["seconds"],
        read_metrics(place.run),
        read_json(place.run / "run.json"),
        read_json(place.samples / "manifest.json"),
        read_json(place.result),
        place.commands(),
        read_json(place.speeds) if place.way.minutes else {},
    )


def outcome(study: ResultsOptions, name: SetName, root: Path, folder: Path) -> Outcome:
    """Do what is missing of one set, write its picture, and gather what the page says of it."""
    places = [Place(study, name, framework, root) for framework in FRAMEWORKS]
    recipe = places[0].recipe
    here = dataclasses.replace(recipe.data, cache=str(root / recipe.data.cache))
    if not here.source.startswith("simulate:"):
        here = dataclasses.replace(here, source=str(root / here.source))
    dataset = open_dataset(here, recipe.image_shape)
    counts = {"train": len(dataset.train), "held out": len(dataset.held_out)}
    if study.n > (most := min(counts.values())):  # said now, not after the training
        raise ValueError(
            f"--n {study.n}: must be at most {most}, the images on either side of {places[0].config}'s split"
        )
    for step in (lambda place: train(place, recipe), draw, score):
        for place in places:
            step(place)
    picture, conditional = folder / f"results-{name}.png", recipe.model.num_class_embeds is not None
    columns = COLUMNS if recipe.model.num_class_embeds is None else recipe.model.num_class_embeds
    pictures = {"Real, held out": shown(dataset, columns, conditional)} | {
        TITLES[p.framework]: images(p) for p in places
    }
    save_picture(picture, pictures, columns, places[0].way.colours)
    found = {TITLES[place.framework]: find(place, recipe) for place in places}
    return Outcome(name, places[0].way, found, beside(study, name, places, dataset), counts, picture.name)


def make_study(study: ResultsOptions, root: Path = ROOT) -> Path:
    """Make the study, or what is missing of it; the page's path.

    Raises:
        ValueError: input that the user must change. RunError: a twin failed.
    """
    for framework in FRAMEWORKS:  # said now, not after an hour
        find_python(framework, root)
    study = dataclasses.replace(study, out=study.out.resolve())
    target = study.page.resolve() if study.page else study.out / "results.md"
    record = study.out / "machine.json"
    if not record.is_file():
        if study.out.exists() and (not study.out.is_dir() or any(study.out.iterdir())):
            raise ValueError(f"--out {study.out}: is no study's folder and not empty: name one that is free")
        study.out.mkdir(parents=True, exist_ok=True)
        write_json(record, machine() | {"set": {name: os.environ[name] for name in VARIABLES if name in os.environ}})
    outcomes = [outcome(study, name, root, target.parent) for name in study.sets]
    write_text_atomic(target, page(outcomes, read_json(record)))
    return target


@dataclass(frozen=True, kw_only=True)
class ResultsStudy(ResultsOptions, Interpreters):
    """Train both frameworks on all sets, draw from them, measure, and write a page in Markdown with a picture a set.

    Lenses are trained on for 5, 30 and 120 reference minutes. The whole takes some six hours on two CPU cores; a study
    that was cut off goes on. Without other work on the machine, the times count.

    Examples:
      python -m eval.studies.results --page docs/results.md
      python -m eval.studies.results --sets lens-64-5 --out runs/quick
    """

    def execute(self) -> str:
        """Make the study, or what is missing of it."""
        return f"wrote {make_study(self)}"


if __name__ == "__main__":
    sys.exit(main(ResultsStudy, "python -m eval.studies.results"))
