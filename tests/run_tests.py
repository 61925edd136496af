"""Run the tests in the environments that they need, and say what ran where: `python -m tests.run_tests [--slow]`.

Three runs of pytest: all that needs one framework, in the PyTorch environment; tests/backend again, in the
TensorFlow one; what needs both (marker `cross`), launched from the PyTorch one. The end says why tests were skipped;
its last line is the sum. A run has a worker a core, four at most, with one thread each: the networks of the tests are
too small for more.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from eval.twins.interpreters import THREAD_VARIABLES, find_python

HERE = Path(__file__).resolve().parent
WORKERS = min(4, os.cpu_count() or 1)  # a worker that loads TensorFlow takes a gigabyte
COUNTS = ("passed", "failed", "skipped")


def read_counts(report: Path, code: int, reasons: Counter[str]) -> dict[str, int]:
    """Passed, failed and skipped tests of one run.

    Args:
        report: the run's JUnit file.
        code: pytest's exit code. A run that was cut short or found no test counts as one failure.
        reasons: number of skipped tests by the reason given, to which this run's are added.
    """
    counts = dict.fromkeys(COUNTS, 0)
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            outcomes = {child.tag for child in case}
            failed = bool(outcomes & {"failure", "error"})
            counts["failed" if failed else "skipped" if "skipped" in outcomes else "passed"] += 1
            reasons.update(child.get("message", "") for child in case.iter("skipped"))
    if code and not counts["failed"]:
        counts["failed"] = 1
    return counts


def run(
    title: str, python: list[str], framework: str, marks: str, files: list[str], reasons: Counter[str]
) -> dict[str, int]:
    """One run of pytest, its output passed through."""
    print(f"\n== {title}", flush=True)
    environment = {**os.environ, "DIPTYCH_BACKEND": framework}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in THREAD_VARIABLES:
        environment.setdefault(name, "1")
    with tempfile.TemporaryDirectory(prefix="diptych-") as folder:
        report = Path(folder) / "report.xml"
        spread = ["-p", "xdist", "-n", str(WORKERS), "--dist", "worksteal"]
        command = [*python, "-m", "pytest", *spread, "-m", marks, f"--junit-xml={report}", *files]
        return read_counts(report, subprocess.run(command, cwd=HERE.parent, env=environment).returncode, reasons)


def summary(counts: dict[str, int]) -> str:
    """`N passed, N failed`, and `, N skipped` where there are any."""
    text = f"{counts['passed']} passed, {counts['failed']} failed"
    return f"{text}, {counts['skipped']} skipped" if counts["skipped"] else text


def main() -> int:
    """Run the three, print the sums; 0 where nothing failed."""
    parser = argparse.ArgumentParser(description="Run the tests in both environments.")
    parser.add_argument("--slow", action="store_true", help="also the tests marked slow")
    slow = "" if parser.parse_args().slow else " and not slow"
    try:
        torch, tensorflow = find_python("torch"), find_python("tensorflow")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs = {
        "PyTorch environment": (torch, "torch", f"not cross{slow}", ["tests"]),
        "TensorFlow environment": (tensorflow, "tensorflow", f"not cross and not diffusers{slow}", ["tests/backend"]),
        "both frameworks": (torch, "torch", f"cross{slow}", ["tests"]),
    }
    reasons: Counter[str] = Counter()
    results = {title: run(title, *arguments, reasons) for title, arguments in runs.items()}
    print()
    for reason, count in reasons.items():
        print(f"{count} skipped: {reason}")
    for title, counts in results.items():
        print(f"{title:24}{summary(counts)}")
    total = {key: sum(counts[key] for counts in results.values()) for key in COUNTS}
    print(summary(total))
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
