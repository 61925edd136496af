"""The command line of eval: `python -m eval VERB`. A verb's flags stand in its own module."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from core.command_line import verb
from core.exits import end
from eval.verbs import Command, call

PROG = "python -m eval"
VERBS = {
    "compare": "hold generated images against real ones: a table and a page",
    "fid": "Fréchet distance with its interval and its floor, and other metrics",
    "pairs": "hold restored images against the truth, image by image",
    "spd": "hold generated positive definite matrices against real ones",
    "spd-regression": "regress positive definite matrices on covariates, and measure it",
    "utility": "train a small model on generated images, and test it on real ones",
    "sweep": "distance against evaluations of the network, for several samplers",
    "parity": "compare both frameworks from their tables to whole trainings",
    "benchmark": "time training and sampling in both frameworks",
    "race": "train both frameworks and other software for the same time, and measure what they draw",
    "demo": "train and sample in both frameworks, and show them side by side",
    "damage": "damage images in known ways and see which metrics notice",
    "conditioning": "draw lenses of known Einstein radius and measure it",
}


def command_of(name: str) -> type[Command]:
    """The class of a verb. Only its own module is imported, so that --help answers at once."""
    if name == "compare":
        from eval.verbs.compare import Compare

        return Compare
    if name == "fid":
        from eval.verbs.fid import Fid

        return Fid
    if name == "pairs":
        from eval.verbs.pairs import Pairs

        return Pairs
    if name == "spd":
        from eval.verbs.spd import Spd

        return Spd
    if name == "spd-regression":
        from eval.verbs.spd_regression import SpdRegression

        return SpdRegression
    if name == "utility":
        from eval.verbs.utility import Utility

        return Utility
    if name == "sweep":
        from eval.verbs.sweep import Sweep

        return Sweep
    if name == "parity":
        from eval.verbs.parity import Parity

        return Parity
    if name == "benchmark":
        from eval.verbs.benchmark import Benchmark

        return Benchmark
    if name == "race":
        from eval.verbs.race import Race

        return Race
    if name == "demo":
        from eval.verbs.demo import Demo

        return Demo
    if name == "damage":
        from eval.studies.damage import DamageStudy

        return DamageStudy
    from eval.studies.conditioning import ConditioningStudy

    return ConditioningStudy


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns 0, 1 (the run failed), 2 (input to change) or 130 (interrupted)."""
    arguments = sys.argv[1:] if argv is None else argv

    def run() -> None:
        name = verb(arguments, VERBS, PROG)
        call(command_of(name), f"{PROG} {name}", arguments[1:])

    return end(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
