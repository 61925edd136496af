"""The command line that both twins share: train, sample, likelihood, edit, features, import, synthesise-ema, export, fetch, worker.

`python -m torch_impl` and `python -m tf_impl` call main(). This module imports no framework: a twin hands in functions
that import theirs when they are called, so that --help answers at once.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

from core.command_line import end, verb
from core.twin import Twin, environment

VERBS = {
    "train": "train a network, or go on with a run",
    "sample": "draw images from a run or a checkpoint",
    "likelihood": "bits per dimension of images, by the variational bound or by the flow",
    "edit": "change images: inpaint, img2img, interpolate, reconstruct, upscale",
    "features": "write what an extractor sees in images, for the Fréchet distance and others",
    "import": "make a checkpoint of a network that diffusers saved",
    "synthesise-ema": "average a run's weights over another length, after training",
    "export": "write the network as a file for another runtime",
    "fetch": "download an extractor's published weights",
    "worker": "serve arrays to the tests and the comparison (not for people)",
}


def main(twin: Twin, argv: Sequence[str] | None = None) -> int:
    """Run one twin's command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return end(lambda: _run(twin, arguments))


def _run(twin: Twin, argv: list[str]) -> int:
    name = verb(argv, VERBS, twin.prog)
    if name != "worker":
        keep_freed_memory()
    if name == "train":
        from core.commands.train import train

        return train(twin, argv[1:])
    if name == "sample":
        from core.commands.sample import sample

        return sample(twin, argv[1:])
    if name == "likelihood":
        from core.commands.likelihood import likelihood

        return likelihood(twin, argv[1:])
    if name == "edit":
        from core.commands.edit import edit

        return edit(twin, argv[1:])
    if name == "features":
        from core.commands.features import features

        return features(twin, argv[1:])
    if name == "fetch":
        from core.commands.fetch import fetch

        return fetch(twin, argv[1:])
    if name == "import":
        from core.commands.import_ import import_

        return import_(twin, argv[1:])
    if name == "synthesise-ema":
        from core.commands.synthesise_ema import synthesise_ema

        return synthesise_ema(twin, argv[1:])
    if name == "export":
        from core.commands.export import export

        return export(twin, argv[1:])
    return _worker(twin, argv[1:])


def keep_freed_memory() -> None:
    """Tell glibc to use freed blocks again, whatever their size, rather than return them to the system.

    A tensor above 32 MiB is otherwise mapped anew, page by page, at every operation: half the time of sampling in PyTorch at
    64 x 64 on a CPU. Where there is no glibc, nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _worker(twin: Twin, argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: {twin.prog} worker [--threads N]\n\n{VERBS['worker']}; requests on stdin, answers on stdout.")
        return 0
    from core.worker import protocol, timing
    from core.worker import tasks as worker
    from core.worker.tasks import FeaturesTask, LikelihoodTask

    tasks = {
        "train": worker.Training(twin.make_trainer),
        "sample": worker.Sampling(twin.make_sampler),
        "run_table": worker.TableRun(twin.make_sampler),
        "time_training": timing.TimedTraining(twin.make_trainer),
        "time_sampling": timing.TimedSampling(twin.make_sampler),
        "features": FeaturesTask(twin.make_extractor),
        "likelihood": LikelihoodTask(twin.make_evaluator),
        "peak_memory": timing.peak_memory,
        "describe": lambda arrays, options: ({}, environment(twin)),
        **twin.tasks(),
    }
    return protocol.serve(twin.set_threads, tasks, argv)
