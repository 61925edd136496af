"""A copy of the code that a test may change, and run."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("core", "eval", "torch_impl", "tf_impl")


class Checkout:
    """A copy of the code that a recipe may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for room in ROOMS:
            shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))

    def add(self, file: str, text: str) -> None:
        """Write at the end of a file, or write a new one."""
        with open(self.folder / file, "a", encoding="utf-8") as stream:
            stream.write(f"\n\n{textwrap.dedent(text).strip()}\n")

    def change(self, file: str, old: str, new: str) -> None:
        """Replace text that must be there once."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def define(self, file: str, code: str, table: str, row: str) -> None:
        """Write code above a table that stands at the top level of a file, and a row at its start."""
        lines = (self.folder / file).read_text(encoding="utf-8").splitlines()
        (start,) = (i for i, line in enumerate(lines) if line.startswith((f"{table}:", f"{table} =")))
        head, bracket, rest = lines[start].rpartition("{" if "{" in lines[start] else "(")
        new = [*textwrap.dedent(code).strip().splitlines(), "", "", f"{head}{bracket}{row}, {rest}"]
        (self.folder / file).write_text("\n".join([*lines[:start], *new, *lines[start + 1 :], ""]), encoding="utf-8")

    def python(self, *arguments: str, interpreter: Sequence[str] = (sys.executable,)) -> str:
        """What `python ...` prints in the copy."""
        answer = subprocess.run([*interpreter, *arguments], cwd=self.folder, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr[-2000:]
        return answer.stdout

    def program(self, command: str) -> str:
        """What `python -m ...` prints in the copy."""
        return self.python("-m", *command.split())
