"""What a user calls: a verb is a frozen dataclass whose fields are its flags and whose execute() returns what to print.

A verb's module imports what it needs inside execute(), so that --help answers at once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Protocol

from core.command_line import parse
from core.exits import end
from eval.twins.interpreters import Interpreters


class Command(Protocol):
    """A verb or a study with its flags.

    With WORDS_FIRST = True its required values are words, not flags. With REPEATED = True a flag with several values is
    given once for each.
    """

    def execute(self) -> str:
        """Do it; the text for stdout."""
        ...


def call(cls: type[Command], prog: str, argv: Sequence[str]) -> None:
    """Read flags into a command, execute it and print its text.

    Raises:
        ValueError: input that the user must change. RunError: the run failed.
    """
    from tyro.conf import FlagCreatePairsOff, PositionalRequiredArgs, UseAppendAction, configure

    chosen = {"WORDS_FIRST": PositionalRequiredArgs, "REPEATED": UseAppendAction}
    markers = [FlagCreatePairsOff, *(marker for name, marker in chosen.items() if getattr(cls, name, False))]
    command = parse(configure(*markers)(cls), argv, prog, inspect.cleandoc(cls.__doc__ or ""))
    if isinstance(command, Interpreters):
        command.export()
    print(command.execute())


def main(cls: type[Command], prog: str, argv: Sequence[str] | None = None) -> int:
    """A program of one command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return end(lambda: call(cls, prog, arguments), arguments)
