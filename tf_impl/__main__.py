"""Command line of the TensorFlow twin: train, sample, worker. Nothing of the framework is imported until it is needed."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from core.cli import main
from core.config import ModelConfig, Recipe
from core.twin import Twin


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


def tasks() -> dict[str, Any]:
    """The worker's tasks."""
    from tf_impl.worker import TASKS

    return TASKS


if __name__ == "__main__":
    sys.exit(main(Twin("tf_impl", set_threads, describe, make_trainer, make_sampler, tasks)))
