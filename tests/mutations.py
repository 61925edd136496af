"""Prove that the parity ladder finds faults: `python -m tests.mutations [--only NAME ...] [--out FILE]`.

One fault at a time (tests/faults.toml) is done to a copy of the checkout, and `python -m eval parity` climbs in
that copy until a rung is red. Every fault must turn its rung red, and without a fault everything must be green:
exit code 0, else 1. Run by the PyTorch environment's Python, like the tests; minutes.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.config.recipes import to_dict
from tests.faults import FAULTS, RECIPES, Fault

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("core", "torch_impl", "tf_impl", "eval")
AT_ONCE = 2
"""Climbs at a time: one alone leaves half of two cores idle, waiting for a framework to start or for the other one."""
SIZES = ("--images", "4", "--ddpm-images", "2", "--long-steps", "0")


@dataclass(frozen=True)
class Outcome:
    """The ladder's verdict on a fault, or on none: the worst comparison of the first red rung."""

    fault: str
    file: str
    recipe: str
    ok: bool
    """Whether it is red on the rung where it must be; without a fault, whether it is green."""
    rung: int | None
    quantity: str
    measured: float | None
    """None where nothing is red, or where it could not be compared (other shape, not finite)."""
    tolerance: float | None


def make_copy(folder: Path) -> None:
    """Copy the rooms and link the environments."""
    for room in ROOMS:  # compiled files are judged by size and whole seconds, which a fault may leave as they were
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    if (ROOT / ".venvs").exists():
        (folder / ".venvs").symlink_to((ROOT / ".venvs").resolve())
    for name, recipe in RECIPES.items():
        (folder / f"{name}.json").write_text(json.dumps(to_dict(recipe)))


def mutated(folder: Path, fault: Fault) -> str:
    """A file's text with a fault in it.

    Raises:
        ValueError: what the fault replaces does not stand in the file exactly once.
    """
    text = (folder / fault.file).read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(
            f"fault {fault.name!r}: what it replaces stands {text.count(fault.old)} times in {fault.file}, "
            "must be once; write it anew in tests/faults.toml"
        )
    return text.replace(fault.old, fault.new)


def climb(folder: Path, recipe: str) -> dict[str, Any]:
    """Climb the ladder of a copy to its end or its first red rung; returns parity.json.

    Raises:
        RuntimeError: it failed otherwise than by a red rung, or its exit code is not what its report says.
    """
    command = [
        sys.executable,
        "-m",
        "eval",
        "parity",
        "--config",
        f"{recipe}.json",
        *SIZES,
        "--stop-at-red",
        "--out",
        "parity",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    path = folder / "parity" / "parity.json"
    result = json.loads(path.read_text()) if path.exists() else None
    if result is None or done.returncode != (0 if result["ok"] else 1):
        last = done.stderr.strip().replace("\r", "\n").splitlines()[-1:]
        raise RuntimeError(f"exit code {done.returncode}, {'a' if result else 'no'} report: {' '.join(last)[-300:]}")
    return dict(result)


def judge(fault: Fault | None, recipe: str, result: dict[str, Any]) -> Outcome:
    """What a report says of a fault."""
    red = [m for m in result["rungs"] if not m["ok"]]
    name, file = (fault.name, fault.file) if fault else ("none", "")
    if not red:
        return Outcome(name, file, recipe, fault is None, None, "", None, None)
    first = [m for m in red if m["rung"] == red[0]["rung"]]

    def beyond(m: dict[str, Any]) -> float:
        return m["measured"] / m["tolerance"] if m["measured"] is not None and m["tolerance"] else math.inf

    worst = max(first, key=beyond)
    caught = fault is not None and worst["rung"] == fault.rung
    quantity = f"{worst['quantity']} ({worst['dtype']})"
    return Outcome(name, file, recipe, caught, worst["rung"], quantity, worst["measured"], worst["tolerance"])


def attempt(fault: Fault | None, recipe: str) -> Outcome:
    """Climb with a fault, or with none, in a temporary copy of the checkout."""
    with tempfile.TemporaryDirectory(prefix="diptych-") as name:
        folder = Path(name)
        make_copy(folder)
        if fault is not None:
            (folder / fault.file).write_text(mutated(folder, fault), encoding="utf-8")
        try:
            return judge(fault, recipe, climb(folder, recipe))
        except RuntimeError as error:
            who, file = (fault.name, fault.file) if fault else ("none", "")
            return Outcome(who, file, recipe, False, None, str(error), None, None)


def attempt_all(faults: Sequence[Fault]) -> list[Outcome]:
    """No fault with each recipe that is used, then every fault; progress on stderr."""
    for fault in faults:  # before the first climb: a fault that does not fit is no reason to wait
        mutated(ROOT, fault)
    recipes = dict.fromkeys(fault.recipe for fault in faults)
    tries: list[tuple[Fault | None, str]] = [*((None, r) for r in recipes), *((f, f.recipe) for f in faults)]

    def begin(number: int, fault: Fault | None, recipe: str) -> Outcome:
        print(f"{number} of {len(tries)}: {fault.name if fault else 'no fault'}", file=sys.stderr, flush=True)
        return attempt(fault, recipe)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(begin, range(1, len(tries) + 1), *zip(*tries, strict=True)))


def text_table(outcomes: Sequence[Outcome]) -> str:
    """One line an outcome, and the sum."""
    rows = [("", "fault", "file", "recipe", "first red rung", "quantity", "measured", "tolerance")]
    for o in outcomes:
        measured = "" if o.rung is None else "not comparable" if o.measured is None else f"{o.measured:.1e}"
        tolerance = "" if o.tolerance is None else f"{o.tolerance:.0e}"
        verdict = "ok" if o.ok else "WRONG"
        rung = "none" if o.rung is None else str(o.rung)
        rows.append((verdict, o.fault, o.file, o.recipe, rung, o.quantity, measured, tolerance))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    faults = [o for o in outcomes if o.file]
    clean = [o for o in outcomes if not o.file]
    lines.append(f"\n{sum(o.ok for o in faults)} of {len(faults)} caught")
    lines.append(f"{sum(o.ok for o in clean)} of {len(clean)} green without a fault")
    return "\n".join(lines)


def chosen(names: Sequence[str]) -> list[Fault]:
    """The faults of some names; all where none is given.

    Raises:
        ValueError: an unknown name; the message has the nearest.
    """
    known = {fault.name: fault for fault in FAULTS}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"--only {name}: no such fault; did you mean {near!r}?")
    return [known[name] for name in names or known]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the faults, print the table; 0 where every one is caught and no fault is green."""
    parser = argparse.ArgumentParser(description="Prove that the parity ladder finds faults.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="faults to try, by name; all without it")
    parser.add_argument("--out", metavar="FILE", help="write the outcomes as JSON")
    options = parser.parse_args(arguments)
    if options.out and not Path(options.out).parent.is_dir():
        print(f"error: --out {options.out}: its folder does not exist", file=sys.stderr)
        return 2
    try:
        outcomes = attempt_all(chosen(options.only))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if options.out:
        Path(options.out).write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n", encoding="utf-8")
    print(text_table(outcomes))
    return 0 if all(o.ok for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
