"""The command line of both twins: `python -m torch_impl VERB` and `python -m tf_impl VERB`.

A framework is imported when a verb first needs it, so that --help answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from core.command_line import keep_freed_memory, verb
from core.exits import end
from core.twin import Twin

VERBS = {
    "train": "train a network, or continue a run",
    "distil": "train a network that draws as a run does, in few evaluations",
    "sample": "draw images from a run or a checkpoint",
    "likelihood": "measure bits per dimension of images, by the variational bound or by the ODE",
    "edit": "change images: inpaint, img2img, interpolate, reconstruct, upscale, solve",
    "features": "write an extractor's features of images, for the Fréchet distance and other metrics",
    "import": "make a checkpoint of a network that diffusers saved",
    "synthesise-ema": "average a run's weights over another length, after training",
    "export": "write the network as a file for another runtime",
    "gpu-check": "compare a GPU with the CPU and measure it, in nine minutes at most",
    "fetch": "download an extractor's published weights",
    "worker": "answer requests of the tests, parity and benchmark (no verb for users)",
}


def main(package: str, argv: Sequence[str] | None = None) -> int:
    """Run one twin's command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return end(lambda: _run(Twin(package, own_process=True), arguments), arguments)


def _run(twin: Twin, argv: list[str]) -> int:
    name = verb(argv, VERBS, twin.prog)
    keep_freed_memory()
    return _command(name)(twin, argv[1:])


def _command(name: str) -> Callable[[Twin, list[str]], int]:
    """The function of a verb, its file imported now and no other."""
    if name == "train":
        from core.commands.train import train as command
    elif name == "distil":
        from core.commands.distil import distil as command
    elif name == "sample":
        from core.commands.sample import sample as command
    elif name == "likelihood":
        from core.commands.likelihood import likelihood as command
    elif name == "edit":
        from core.commands.edit import edit as command
    elif name == "features":
        from core.commands.features import features as command
    elif name == "import":
        from core.commands.import_ import import_ as command
    elif name == "synthesise-ema":
        from core.commands.synthesise_ema import synthesise_ema as command
    elif name == "export":
        from core.commands.export import export as command
    elif name == "gpu-check":
        from core.commands.gpu_check import gpu_check as command
    elif name == "fetch":
        from core.commands.fetch import fetch as command
    else:
        from core.commands.worker import worker as command
    return command
