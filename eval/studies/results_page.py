"""The page of the study of results, in Markdown, from the runs' own files. Its text stands in templates/results.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.config import Recipe
from core.networks.specs import count_parameters
from eval.measure.metrics import rows as metric_rows
from eval.pages.page import fill_template
from eval.pages.tables import markdown_table, number
from eval.studies.reference_speed import REFERENCE
from eval.studies.results_place import Way

COMMAND = "python -m eval.studies.results --page docs/results.md"
BESIDE = ("power_spectrum", "pixel_values")
"""Of compare.json: metrics of details that the features may not show."""


@dataclass(frozen=True)
class Found:
    """One network: what its files say."""

    recipe: Recipe
    seconds: float
    """Of its training."""
    metrics: list[dict[str, Any]]
    environment: dict[str, Any]
    manifest: dict[str, Any]
    """Of its images."""
    result: dict[str, Any]
    """Of `eval fid`."""
    commands: list[str]
    speeds: dict[str, float]
    """The machine's speed before and after the training, in images a second of the reference step; or nothing."""

    def reference_minutes(self) -> float:
        """Length of the training in reference minutes."""
        return self.seconds / 60 * statistics.fmean(self.speeds.values()) / REFERENCE


@dataclass(frozen=True)
class Outcome:
    """One set of images."""

    name: str
    way: Way
    found: Mapping[str, Found]
    """Framework's title -> its network."""
    beside: Mapping[str, Any]
    """compare.json."""
    counts: Mapping[str, int]
    """Images to train on, and held out."""
    picture: str


def _lens_rows(outcome: Outcome, results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Two parameters that the lens extractor measures, in arcsec or dimensionless; none for another extractor."""
    if "lens" not in results[0]:
        return []
    side = next(iter(outcome.found.values())).recipe.data.field_of_view
    rows = []
    for name, label, unit in (
        ("theta_e", "Einstein radius, Wasserstein, arcsec", side),
        ("gamma1", "Shear, Wasserstein", 1.0),
    ):
        entries = [result["lens"]["parameters"][name] for result in results]
        values = [number(unit * entry["value"]) for entry in entries]
        rows.append([label, *values, number(unit * entries[0]["floor"])])
    return rows


def distances(outcome: Outcome) -> str:
    """Every distance, a framework a column, and what real images score."""
    results = [found.result for found in outcome.found.values()]
    first, titles = results[0], list(outcome.found)
    extractor, floor = first["extractor"], first["floor"]

    def row(label: str, cell: Callable[[Mapping[str, Any]], str], real: str = "") -> list[str]:
        return [label, *(cell(result) for result in results), real]

    def frechet(result: Mapping[str, Any]) -> str:
        value = result["frechet"]
        return f"**{number(value['value'])}** [{number(value['low'])}, {number(value['high'])}]"

    def infinity(result: Mapping[str, Any]) -> str:
        return f"{number(result['infinity']['value'])} ± {result['infinity']['standard_error']:.1g}"

    what = f"{extractor['features']} features of {extractor['name']}"
    rows = [
        row(f"Fréchet distance, {what} [95 % interval]", frechet, f"{number(floor['mean'])} ± {number(floor['std'])}"),
        row("in multiples of the floor", lambda r: f"{r['frechet']['value'] / r['floor']['mean']:.1f}", "1"),
    ]
    if first["infinity"]:
        rows.append(row("extrapolated to infinite N", infinity, "0"))
    for metric in metric_rows("features"):
        rows.append([metric.label, *(metric.text(result[metric.key]) for result in results), ""])
    rows += _lens_rows(outcome, results)
    for entry in outcome.beside["metrics"]:
        if entry["key"] in BESIDE:
            cells = [number(entry["sets"][title]["mean"]) for title in titles]
            rows.append([entry["label"], *cells, number(entry["floor"]["mean"])])
    nearest = outcome.beside["nearest"]["sets"]
    shares = [f"{100 * nearest[title]['share_closer']:.1f} %" for title in titles]
    rows.append(["Nearer to a training image than 99 % of the held-out ones are", *shares, "1 %"])
    return markdown_table([f"N = {first['n']['generated']:,}", *titles, "real against real"], rows)


def costs(outcome: Outcome) -> str:
    """Seconds, speeds and versions, a framework a column."""

    def row(label: str, cell: Callable[[Found], str]) -> list[str]:
        return [label, *(cell(found) for found in outcome.found.values())]

    def speed(found: Found) -> str:
        return f"{statistics.median(line['images_per_second'] for line in found.metrics):.0f}"

    def pace(found: Found) -> str:
        drawn = found.manifest
        return f"{1000 * drawn['seconds'] / drawn['n'] / drawn['nfe']:.2f}"

    rows = [row("Training, s", lambda found: f"{found.seconds:,.0f}")]
    if outcome.way.minutes:
        rows += [
            row("Training, reference minutes", lambda found: f"{found.reference_minutes():.1f}"),
            row("Reference speed before and after", lambda found: " ".join(map(number, found.speeds.values()))),
        ]
    rows += [
        row("images/s in training, median of the log's lines", speed),
        row("Drawing, s", lambda found: f"{found.manifest['seconds']:,.0f}"),
        row("ms an image and evaluation", pace),
        row("version", lambda found: str(found.environment["version"])),
        row("threads", lambda found: str(found.environment["threads"])),
    ]
    return markdown_table(["", *outcome.found], rows)


def section(outcome: Outcome) -> dict[str, Any]:
    """One set, as the template takes it."""
    one = next(iter(outcome.found.values()))
    warnings = {text for found in outcome.found.values() for text in found.result["warnings"]}
    return {
        "name": outcome.name,
        "way": outcome.way,
        "recipe": one.recipe,
        "parameters": count_parameters(one.recipe.model),
        "counts": outcome.counts,
        "manifest": one.manifest,
        "picture": outcome.picture,
        "distances": distances(outcome),
        "costs": costs(outcome),
        "warnings": sorted(warnings),
        "commands": [line for found in outcome.found.values() for line in found.commands],
    }


def page(outcomes: Sequence[Outcome], machine: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        outcomes: one a set. machine: the hardware, as eval.measure.machine.machine describes it, and the environment
        variables that change times.
    """
    sections = [section(outcome) for outcome in outcomes]
    return fill_template("results.md", command=COMMAND, machine=machine, sections=sections) + "\n"
