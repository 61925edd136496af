"""The command line of eval: `python -m eval VERB`. A verb's flags stand in its own module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from core.command_line import end, verb
from eval.verbs import call

PROG = "python -m eval"
VERBS = {
    "compare": "hold generated images against real ones: a table and a page",
    "fid": "Fréchet distance with its interval and its floor, and other metrics",
    "sweep": "distance against evaluations of the network, for several samplers",
    "parity": "compare both frameworks from their tables to whole trainings",
    "benchmark": "time training and sampling in both frameworks",
    "demo": "train and sample in both frameworks, and show them side by side",
    "damage": "spoil images in known ways and see which metrics notice",
    "conditioning": "draw lenses of known Einstein radius and measure it",
}
COMMANDS = {
    "compare": ("eval.verbs.compare", "Compare"),
    "fid": ("eval.verbs.fid", "Fid"),
    "sweep": ("eval.verbs.sweep", "Sweep"),
    "parity": ("eval.verbs.parity", "Parity"),
    "benchmark": ("eval.verbs.benchmark", "Benchmark"),
    "demo": ("eval.verbs.demo", "Demo"),
    "damage": ("eval.studies.damage", "DamageStudy"),
    "conditioning": ("eval.studies.conditioning", "ConditioningStudy"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns 0, 1 (the run failed), 2 (input to change) or 130 (interrupted)."""
    arguments = sys.argv[1:] if argv is None else argv

    def run() -> None:
        name = verb(arguments, VERBS, PROG)
        module, command = COMMANDS[name]
        call(getattr(importlib.import_module(module), command), f"{PROG} {name}", arguments[1:])

    return end(run)


if __name__ == "__main__":
    sys.exit(main())
