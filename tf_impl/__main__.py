"""Command line of the TensorFlow twin: train, sample, likelihood, edit, features, import, export, fetch, worker. Nothing of the framework is imported until it is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.commands.main import main
from core.config import ModelConfig, Recipe
from core.twin import Exported, Published, Twin

if TYPE_CHECKING:
    from core.extractors.features import Extractor

FORMATS = {
    "saved-model": ("", "for tf.saved_model.load and TensorFlow Serving; stands alone"),
    "keras": (
        ".keras",
        "for keras.saving.load_model beside `import tf_impl.weights`, so in this checkout; any image size",
    ),
}


def set_threads(threads: int) -> None:
    """Limit CPU threads."""
    from tf_impl import trainer

    trainer.set_threads(threads)


def describe() -> dict[str, Any]:
    """The framework, its version, threads and device."""
    from tf_impl import trainer

    return trainer.describe()


def make_trainer(recipe: Recipe) -> Any:
    """A fresh trainer."""
    from tf_impl.trainer import Trainer

    return Trainer(recipe)


def make_sampler(config: ModelConfig, weights: dict[str, np.ndarray], dtype: str) -> Any:
    """The executor over given weights, on the device at hand."""
    from tf_impl.sampler import make_sampler

    return make_sampler(config, weights, dtype)


def make_evaluator(config: ModelConfig, weights: dict[str, np.ndarray], dtype: str) -> Any:
    """The network on arrays, with given weights, on the device at hand."""
    from tf_impl.evaluator import make_evaluator

    return make_evaluator(config, weights, dtype)


def tasks() -> dict[str, Any]:
    """The worker's tasks."""
    from tf_impl.worker import TASKS

    return TASKS


def export(
    config: ModelConfig, weights: dict[str, np.ndarray], format: str, path: Path, batch: dict[str, np.ndarray]
) -> Exported:
    """The network as a file of another runtime."""
    from tf_impl.export import export

    return export(config, weights, format, path, batch)


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a pickled state_dict."""
    from tf_impl.weights import read_pickle

    return read_pickle(path)


def make_extractor(name: str, weights: dict[str, np.ndarray], resize: str, dtype: str) -> Extractor:
    """An extractor of features over given weights, on the device at hand."""
    from tf_impl.extractors import make_extractor

    return make_extractor(name, weights, resize, dtype)


def published() -> dict[str, Published]:
    """The files of weights that `fetch` brings."""
    from tf_impl.inception import PUBLISHED

    return {"inception": PUBLISHED}


TWIN = Twin(
    "tf_impl", set_threads, describe, make_trainer, make_sampler, tasks, FORMATS, export, read_pickle,
    make_extractor, published, make_evaluator,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(TWIN))
