"""The verb `worker`: runs a twin's tasks for the tests, the parity ladder and the benchmark."""

from __future__ import annotations

from functools import partial

from core.twin import Twin


def worker(twin: Twin, argv: list[str]) -> int:
    """Answer requests until stdin ends; returns the exit code."""
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: {twin.prog} worker [--threads N]\n\nReads requests from stdin, writes answers to stdout.")
        return 0
    from core.training.distillation import make_training
    from core.worker import tasks, timing
    from core.worker.protocol import Task, serve

    own: dict[str, Task] = {
        "train": tasks.TrainingTask(twin.make_trainer, partial(make_training, twin)),
        "sample": tasks.SamplingTask(twin.make_network),
        "run_table": tasks.TableTask(twin.make_network),
        "features": tasks.FeaturesTask(twin.make_extractor),
        "likelihood": tasks.LikelihoodTask(twin.make_network),
        "time_training": timing.TimedTraining(twin.make_trainer),
        "time_sampling": timing.TimedSampling(twin.make_network),
        "peak_memory": timing.peak_memory,
        "describe": lambda arrays, options: ({}, twin.environment()),
    }
    return serve(twin.prepare, {**own, **twin.module("worker").TASKS}, argv)
