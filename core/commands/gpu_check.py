"""The verb `gpu-check`: what a GPU computes and how fast, in one run of bounded time. It needs no tyro."""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from core.command_line import output_folder
from core.twin import Twin

TEXT = """
Check a GPU against the CPU, and measure it. Everything is written to DIR/results.json as it is found, and to
DIR/results.md at the end. A part whose time is up is left out with a line. On a CPU everything is tiny: this shows
that the check itself works, and measures nothing.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are the program's own."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(f"{message}; see {self.prog} --help")


def gpu_check(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    parser = Parser(f"{twin.prog} gpu-check", description=TEXT, allow_abbrev=False)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for results.json and results.md")
    parser.add_argument("--minutes", type=float, default=9.0, help="longest time of the whole run (default: 9)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"), help="device to check")
    command = parser.parse_args(argv)
    if not 0 < command.minutes <= 24 * 60:
        raise ValueError(f"--minutes {command.minutes}: must be above 0 and at most 1440")
    out = output_folder(command.out)
    from core.commands.gpu_parts import PARTS
    from core.commands.gpu_subject import Check
    from core.files import write_json, write_text_atomic

    started, twin = time.monotonic(), twin.on(command.device)
    twin.prepare(0)
    facts = twin.environment()
    parts: dict[str, dict[str, Any]] = {}
    results = {**facts, "command": f"{twin.prog} gpu-check", "minutes": command.minutes, "parts": parts}
    check, used = Check(twin, toy=facts["device"] == "cpu"), 0.0
    out.mkdir(parents=True, exist_ok=True)
    for name, (part, share, least) in PARTS.items():
        used += share
        found = parts[name] = {"about": inspect.getdoc(part), "rows": [], "left out": ""}
        for _ in _filled(found, part(check), started + 60 * command.minutes * used - (0 if check.toy else least)):
            results["seconds"] = round(time.monotonic() - started, 1)
            write_json(out / "results.json", results)
        if not found["rows"]:
            found["left out"] = found["left out"] or "this part needs a GPU"
        print(f"{name}: {len(found['rows'])} rows" + (f"; left out: {found['left out']}" if found["left out"] else ""))
    write_text_atomic(out / "results.md", as_markdown(results))
    print(f"wrote {out / 'results.md'}")
    return 0


def _filled(found: dict[str, Any], rows: Iterator[dict[str, Any]], end: float) -> Iterator[None]:
    """Collect the rows of a part until its time is up or it fails, with a line that says so."""
    try:
        while time.monotonic() < end:
            row = next(rows, None)
            if row is None:
                break
            found["rows"].append(row)
            yield
        else:
            found["left out"] = "the rest, since the time of this part was up"
    except Exception as error:  # one part must not end the others
        found["left out"] = " ".join(f"the rest, since it failed: {type(error).__name__}: {error}".split())[:300]
    yield


def as_markdown(results: dict[str, Any]) -> str:
    """The results as a page of tables."""
    facts = {key: value for key, value in results.items() if key != "parts"}
    lines = ["# GPU check", "", *(f"- {key}: {value}" for key, value in facts.items())]
    for name, found in results["parts"].items():
        lines += ["", f"## {name}", "", found["about"]]
        if found["rows"]:
            heads = list(found["rows"][0])
            lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
            lines += [f"| {' | '.join(_shown(row.get(head)) for head in heads)} |" for row in found["rows"]]
        if found["left out"]:
            lines += ["", f"Left out: {found['left out']}."]
    return "\n".join([*lines, ""])


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
