"""The parts of the verb `gpu-check` in their order, and the last of them, a minute of training."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np

from core.commands.gpu_equality import network, resume, training
from core.commands.gpu_speed import compiled, evaluation_speed, memory, training_speed, waiting
from core.commands.gpu_subject import PRECISIONS, Check, Row
from core.config import DataConfig, EvaluationConfig
from core.data.dataset import Dataset
from core.data.lenses import simulate
from core.training.evaluation import Evaluation, make_extract
from core.training.loop import TrainingRun
from core.training.training import Training


def minute(check: Check) -> Iterator[Row]:
    """A minute of training on simulated lenses, and the lens Fréchet distance of images drawn after it."""
    name, wanted = ("toy", 0.3) if check.toy else ("lens-64", 60.0)
    size, held_out = (32, 16) if check.toy else (64, 1000)
    recipe, count = check.recipes[name], 64 if check.toy else 3000
    model = dataclasses.replace(recipe.model, sample_size=(size, size))
    images, labels, _ = simulate("lensing", count, (size, size))
    split = np.arange(held_out, count), np.arange(held_out)
    dataset = Dataset(images, labels, (), {}, *split, {})
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(
            recipe.training, autocast=PRECISIONS[precision], learning_rate=1e-3, warmup_steps=50, steps=10**6
        )
        chosen = dataclasses.replace(
            recipe, model=model, data=DataConfig(), training=config, evaluation=EvaluationConfig(every=1, n=held_out)
        )
        run = TrainingRun(Training(chosen, dataset), check.twin.make_trainer(chosen))
        float(run.advance()["loss"])  # what is compiled at the first step is no part of the minute
        started = time.perf_counter()
        while time.perf_counter() - started < wanted:
            for _ in range(check.steps):
                metrics = run.advance()
            float(metrics["loss"])
        seconds = time.perf_counter() - started
        distance = Evaluation(chosen, dataset, make_extract(check.twin, chosen))(run.draw(held_out, 0))
        rate = (run.step - 1) * config.batch_size / seconds
        yield {"network": name, "precision": precision, "steps": run.step, "images/s": rate, "distance": distance}


PARTS: dict[str, tuple[Callable[[Check], Iterator[Row]], float, float]] = {
    "network, GPU against CPU": (network, 0.1, 5),
    "twenty training steps, GPU against CPU": (training, 0.1, 10),
    "going on, on the other device": (resume, 0.06, 10),
    "speed of training": (training_speed, 0.24, 20),
    "speed of one evaluation": (evaluation_speed, 0.08, 5),
    "compiled in bf16": (compiled, 0.12, 90),
    "peak memory": (memory, 0.03, 5),
    "waiting for data": (waiting, 0.03, 5),
    "a minute of training": (minute, 0.24, 100),
}
"""The parts in their order; the share of the time that each may take, where time that one leaves goes to the next; and
the seconds that must be left before a row is begun."""
