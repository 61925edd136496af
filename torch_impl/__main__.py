"""Command line of the PyTorch twin: train, sample, likelihood, edit, features, import, export, fetch, worker. Nothing of the framework is imported until it is needed."""

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
    "torch-export": (".pt2", "for torch.export.load; stands alone"),
    "onnx": (".onnx", "for onnxruntime and others; stands alone; needs: pip install onnx onnxscript onnxruntime"),
}


def set_threads(threads: int) -> None:
    """Limit CPU threads."""
    from torch_impl import trainer

    trainer.set_threads(threads)


def describe() -> dict[str, Any]:
    """The framework, its version, threads and device."""
    from torch_impl import trainer

    return trainer.describe()


def make_trainer(recipe: Recipe) -> Any:
    """A fresh trainer."""
    from torch_impl.trainer import Trainer

    return Trainer(recipe)


def make_sampler(config: ModelConfig, weights: dict[str, np.ndarray], dtype: str) -> Any:
    """The executor over given weights, on the device at hand."""
    from torch_impl.sampler import make_sampler

    return make_sampler(config, weights, dtype)


def make_evaluator(config: ModelConfig, weights: dict[str, np.ndarray], dtype: str) -> Any:
    """The network on arrays, with given weights, on the device at hand."""
    from torch_impl.evaluator import make_evaluator

    return make_evaluator(config, weights, dtype)


def tasks() -> dict[str, Any]:
    """The worker's tasks."""
    from torch_impl.worker import TASKS

    return TASKS


def export(
    config: ModelConfig, weights: dict[str, np.ndarray], format: str, path: Path, batch: dict[str, np.ndarray]
) -> Exported:
    """The network as a file of another runtime."""
    from torch_impl.export import export

    return export(config, weights, format, path, batch)


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a pickled state_dict."""
    from torch_impl.weights import read_pickle

    return read_pickle(path)


def make_extractor(name: str, weights: dict[str, np.ndarray], resize: str, dtype: str) -> Extractor:
    """An extractor of features over given weights, on the device at hand."""
    from torch_impl.extractors import make_extractor

    return make_extractor(name, weights, resize, dtype)


def published() -> dict[str, Published]:
    """The files of weights that `fetch` brings."""
    from torch_impl.inception import PUBLISHED

    return {"inception": PUBLISHED}


TWIN = Twin(
    "torch_impl", set_threads, describe, make_trainer, make_sampler, tasks, FORMATS, export, read_pickle,
    make_extractor, published, make_evaluator,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(TWIN))
