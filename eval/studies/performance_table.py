"""The study `performance_table`: the tables of docs/performance.md, from the results of several benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from core.reading import read_json
from eval.measure.speed import LIMIT
from eval.pages.benchmark_page import title_of
from eval.pages.tables import markdown_table, number, replace_between
from eval.twins.interpreters import ROOT
from eval.verbs import main

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- speed: begin -->\n", "<!-- speed: end -->\n"
WHAT = ("training", "evaluation, batch 1", "evaluation, large batch", "start")
SHOWN = ("torch", "tensorflow", LIMIT)
"""Contestants whose milliseconds are shown."""
Results = Mapping[str, Mapping[str, Any]]


def named(timed: Mapping[str, Any]) -> dict[str, Any]:
    """What is timed by a name that all results have: the larger batch is the large batch, whatever its size."""
    names = {"evaluation 1": WHAT[1]}
    return {names.get(key, WHAT[2] if key.startswith("evaluation") else key): value for key, value in timed.items()}


def tables(results: Results) -> str:
    """Two Markdown tables with a column a result: the ratios with their quartiles, and milliseconds.

    What was timed once alone, such as a start, has no quartiles and is left out.
    """
    ratios: dict[tuple[str, str], dict[str, str]] = {}
    milliseconds: dict[tuple[str, str], dict[str, str]] = {}
    for column, result in results.items():
        for what, entries in named(result["ratios"]).items():
            for e in (e for e in entries if len(e["values"]) > 1):
                row = ratios.setdefault((what, f"{title_of(e['of'])} / {title_of(e['to'])}"), {})
                row[column] = f"{e['median']:.2f} ({e['q1']:.2f} – {e['q3']:.2f})"
        for name in SHOWN:
            for what, seconds in named(result["contestants"][name]["seconds"]).items():
                if len(seconds["values"]) == 1:
                    continue
                milliseconds.setdefault((what, title_of(name)), {})[column] = number(1000 * seconds["median"])

    def table(head: str, rows: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
        order = sorted(rows, key=lambda key: WHAT.index(key[0]))
        cells = [[f"{what}: {who}", *(rows[what, who].get(c, "–") for c in results)] for what, who in order]
        return markdown_table([head, *results], cells)

    return f"{table('Ratio of speeds', ratios)}\n\n{table('Milliseconds', milliseconds)}"


def write_tables(page: Path, results: Results) -> None:
    """Replace the tables of a page, which has the lines BEGIN and END."""
    replace_between(page, BEGIN, END, tables(results))


@dataclass(frozen=True, kw_only=True)
class PerformanceTable:
    """Write the tables of docs/performance.md from the results of several benchmarks.

    Examples:
      python -m eval.studies.performance_table demo=runs/benchmark/demo CIFAR-10=runs/benchmark/cifar10
    """

    WORDS_FIRST: ClassVar = True

    results: tuple[str, ...]
    """NAME=FOLDER: a column's name, and the folder of its benchmark.json."""

    def execute(self) -> str:
        """Read the results, and write the page."""
        if not self.results or not all("=" in word for word in self.results):
            raise ValueError("takes NAME=FOLDER, a column's name and the folder of a benchmark")
        folders = dict(word.split("=", 1) for word in self.results)
        write_tables(PAGE, {name: read_json(Path(folder) / "benchmark.json") for name, folder in folders.items()})
        return f"wrote {PAGE}"


if __name__ == "__main__":
    sys.exit(main(PerformanceTable, "python -m eval.studies.performance_table"))
