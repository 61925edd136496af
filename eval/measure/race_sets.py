"""The sets of images of the race: their recipes, their split, and the features that the distance is measured on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import EvaluationConfig, Recipe
from core.config.recipes import load_recipe, to_dict
from core.data.dataset import Dataset, open_dataset
from core.files import write_json, write_npy, write_npz
from core.reading import read_json
from eval.measure.race_table import SETS, Feature, RaceSet, SetName
from eval.twins.client import Worker
from eval.twins.features import open_extractor, open_features
from eval.twins.interpreters import ROOT

log = logging.getLogger(__name__)

Images = npt.NDArray[Any]
Extract = Callable[[Images], npt.NDArray[np.float64]]
"""Images (N, H, W, C) in [0, 1] -> features (N, d)."""

CLASSIFIER = "tests.peers.race_classifier"
EPOCHS = 3
"""Length of the classifier's training."""
NEVER = 10**9
"""Steps between checkpoints: a contestant writes one after its last step."""


@dataclass(frozen=True)
class Course:
    """A set of images, opened for the race."""

    name: SetName
    recipe: Recipe
    """Without conditions, evaluations, sample grids and checkpoints before the last."""
    dataset: Dataset
    folder: Path
    """Folder of the race, which keeps the exported training images and the classifier."""

    @property
    def about(self) -> RaceSet:
        """How the set is measured."""
        return SETS[self.name]

    def fingerprint(self) -> str:
        """SHA-256 of the recipe and the images, which results keep."""
        recipe = to_dict(self.recipe)
        recipe["data"].pop("cache")
        recipe["data"].pop("source")
        text = json.dumps([recipe, self.dataset.manifest["sha256"]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def train_images(self) -> Path:
        """The training images as an .npy file, exported once: what every peer trains on."""
        path, record = (self.folder / f"train-{self.name}{end}" for end in (".npy", ".json"))
        manifest = self.dataset.manifest
        made_from = {"sha256": manifest["sha256"], "held_out_share": manifest["held_out_share"]}
        if not (path.is_file() and record.is_file() and read_json(record) == made_from):
            write_npy(path, np.asarray(self.dataset.images[self.dataset.train]))
            write_json(record, made_from)
        return path

    @contextlib.contextmanager
    def open_features(self) -> Iterator[dict[str, Extract]]:
        """The functions that take the set's features, by name."""
        with contextlib.ExitStack() as stack:
            yield {name: stack.enter_context(self._open(name)) for name in self.about.features}

    @contextlib.contextmanager
    def _open(self, name: Feature) -> Iterator[Extract]:
        if name == "classifier":
            threads = self.recipe.training.threads
            with Worker("torch", module=CLASSIFIER, threads=threads, timeout=3600.0) as worker:
                weights = {f"weights/{key}": value for key, value in self.classifier(worker)[0].items()}
                yield lambda images: _classifier_features(worker, weights, images)
            return
        extractor = open_extractor(name)
        with open_features(extractor, "torch") as (taps, _):
            yield lambda images: np.asarray(taps(images)[extractor.taps[0]])

    def classifier_record(self) -> dict[str, Any]:
        """What is known of the classifier, its accuracy on held-out images too; empty for a set without one."""
        path = self.folder / f"classifier-{self.name}.json"
        return read_json(path) if "classifier" in self.about.features and path.is_file() else {}

    def classifier(self, worker: Worker) -> tuple[dict[str, Images], dict[str, Any]]:
        """Weights of the classifier and what is known of it; trained once on the training images and their labels."""
        data = self.dataset
        if data.labels is None:
            raise ValueError(f"{self.name}: its images have no classes, so no classifier can be trained on them")
        made_from = {"data_sha256": data.manifest["sha256"], "epochs": EPOCHS, "train": len(data.train)}
        path, record = (self.folder / f"classifier-{self.name}{end}" for end in (".npz", ".json"))
        if path.is_file() and record.is_file() and made_from.items() <= (known := read_json(record)).items():
            with np.load(path, allow_pickle=False) as file:
                weights = dict(file)
            if known.get("weights_sha256") == _hash(weights):
                return weights, known
        log.info("%s: train the classifier on %s images", self.name, f"{len(data.train):,}")
        arrays: dict[str, Images] = {"images": np.asarray(data.images[data.train]), "labels": data.labels[data.train]}
        arrays |= {"held_out_images": np.asarray(data.images[data.held_out])}
        arrays |= {"held_out_labels": data.labels[data.held_out]}
        found, info = worker.call("train", arrays, epochs=EPOCHS, classes=int(data.labels.max()) + 1)
        weights = {key.removeprefix("weights/"): value for key, value in found.items()}
        known = {**made_from, "accuracy": info["accuracy"], "weights_sha256": _hash(weights)}
        write_npz(path, weights)
        write_json(record, known)
        log.info("%s: the classifier is right on %.1f %% of held-out images", self.name, 100 * info["accuracy"])
        return weights, known


def _classifier_features(worker: Worker, weights: dict[str, Images], images: Images) -> npt.NDArray[np.float64]:
    found, _ = worker.call("features", {**weights, "images": np.asarray(images, np.float32)})
    return found["features"].astype(np.float64)


def _hash(arrays: dict[str, Images]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def open_course(name: SetName, folder: Path, threads: int, root: Path = ROOT) -> Course:
    """Open a set of images for the race.

    Args:
        name: one of SETS.
        folder: folder of the race.
        threads: CPU threads of every contestant.
        root: the checkout.
    Raises:
        ValueError: the images are missing, or the recipe's network is conditioned on an image.
    """
    recipe = load_recipe(root / SETS[name].config)
    source = recipe.data.source
    source = source if source.startswith("simulate:") else str(root / source)
    data = dataclasses.replace(recipe.data, source=source, cache=str(root / recipe.data.cache), condition=())
    if recipe.model.condition_channels:
        raise ValueError(f"{SETS[name].config}: model.condition_channels: must be 0 in the race")
    model = dataclasses.replace(recipe.model, num_class_embeds=None, vector_channels=0)
    training = dataclasses.replace(
        recipe.training,
        condition_dropout=0.0,
        sample_every=0,
        sample_count=0,
        checkpoint_every=NEVER,
        threads=threads,
    )
    sampling, evaluation = dataclasses.replace(recipe.sampling, guidance=1.0), EvaluationConfig()
    recipe = Recipe(model, recipe.process, data, training, sampling, evaluation)
    return Course(name, recipe, open_dataset(data, recipe.image_shape), folder)
