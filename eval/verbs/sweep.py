"""The verb `sweep`: distance against evaluations of the network and seconds, for several samplers of one run.

Imports NumPy, core and eval's own modules. A sampler is asked for in evaluations of the network, since a step of one method
may cost two; what was drawn and measured before is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.config import ExtractorName
from core.diffusion.samplers import SAMPLERS
from core.files import read_json, write_atomically
from core.metrics.frechet import frechet_distance_from_features
from eval.measure.distance import PROTOCOL_N, choose
from eval.measure.sides import Side, read_side
from eval.pages.page import Cell, Figure, Figures, Notice, Section, Table, render
from eval.pages.plots import line_plot
from eval.twins.client import Framework, Worker
from eval.twins.features import FeatureWorker, open_extractor
from eval.verbs.fid import draw_from, first_framework

SEED = 0
"""Of the choice of real images."""
GREY = "#808080"
"""Seen on light and on dark."""


def run(
    path: str,
    samplers: Sequence[str],
    nfe: Sequence[int],
    *,
    n: int,
    extractor: ExtractorName,
    out: str | None,
    framework: str | None,
    pythons: Mapping[Framework, str | None],
    spacing: str | None = None,
) -> str:
    """Draw, measure and write sweep.json, curves.svg and report.html.

    Args:
        path: the run; its held-out images are the real ones.
        samplers, nfe: methods, and evaluations of the network an image.
        n: images a side; 0 for as many as there are held out, at most the protocol's 2,000.
        extractor: as `eval fid`.
        out: folder; the run's own folder `sweep` where None.
        framework, pythons: as `eval fid`.
        spacing: grid of the steps; the run's own where None.
    Returns:
        What to print on stdout.
    Raises:
        ValueError: input that the user must change. RuntimeError: a twin failed.
    """
    if not samplers or not nfe:
        raise ValueError("sweep: give at least one of --samplers and one of --nfe")
    chosen, network = first_framework(framework, pythons), open_extractor(extractor, "clean", None)
    python, folder = pythons.get(chosen), Path(path)
    real = read_side(path, "real", lambda other: other)
    if real.images is None or real.others is None:
        raise ValueError(f"{path}: must be a run, whose held-out images are the real ones")
    n = n or min(PROTOCOL_N, len(real.images), len(real.others))
    cut = choose(real, Side(path, real.images), n, SEED)
    rows = []
    with Worker(chosen, python=python, timeout=24 * 3600.0) as worker:
        features, main = FeatureWorker(worker, network), network.taps[0]
        reference, spare = (features(images)[main] for images in (cut.real, cut.spare))
        floor = frechet_distance_from_features(reference, spare[:n])
        for sampler in samplers:
            for count in sorted({spent(sampler, budget) for budget in nfe}):
                options: dict[str, str | int] = {"sampler": sampler, "nfe": count}
                if spacing:
                    options["spacing"] = spacing
                name = "-".join(str(value) for value in options.values())
                drawn = draw_from(folder, n, chosen, python, f"sweep/{chosen}/{name}", **options)
                images, manifest = (
                    np.load(drawn / "samples.npy", allow_pickle=False),
                    read_json(drawn / "manifest.json"),
                )
                if manifest["nfe"] != count:
                    raise RuntimeError(f"{drawn}: took {manifest['nfe']} evaluations where {count} were asked for")
                distance = frechet_distance_from_features(features(images)[main], reference)
                rows.append({"sampler": sampler, "nfe": count, "distance": distance, "seconds": manifest["seconds"]})
    result = {
        "run": path, "n": n, "floor": floor, "extractor": network.about(), "framework": chosen, "rows": rows,
        "split": real.about["split"], "spacing": manifest["spacing"],
    }  # fmt: skip
    target = Path(out) if out else folder / "sweep"
    text = json.dumps(result, indent=1, allow_nan=False)
    write_atomically(target / "sweep.json", lambda file: file.write_text(text + "\n", encoding="utf-8"))
    picture = curves(result)[0].replace("currentColor", GREY)  # outside a page there is no text whose colour to take
    write_atomically(target / "curves.svg", lambda file: file.write_text(picture, encoding="utf-8"))
    render(
        target / "report.html",
        "Few steps, honestly",
        sections(result),
        lead=f"{path}, {n:,} images a point, grid {manifest['spacing']}.",
    )
    return f"{text_table(result)}\n\nwrote {target / 'report.html'}"


def spent(sampler: str, budget: int) -> int:
    """Evaluations that a sampler makes of a budget: one is left over where each step takes two but the last."""
    return budget - 1 if SAMPLERS[sampler].evaluations == 2 and budget % 2 == 0 else budget


def text_table(result: Mapping[str, Any]) -> str:
    """One line a sampler and number of evaluations."""
    lines = [f"N = {result['n']:,}, {result['extractor']['name']} features; real against real {result['floor']:.4g}"]
    lines.append(f"{'sampler':14}{'evaluations':>12}{'distance':>12}{'x floor':>10}{'s an image':>12}")
    for row in result["rows"]:
        ratio, seconds = row["distance"] / result["floor"], row["seconds"] / result["n"]
        lines.append(f"{row['sampler']:14}{row['nfe']:12}{row['distance']:12.4g}{ratio:10.2f}{seconds:12.3g}")
    return "\n".join(lines)


def curves(result: Mapping[str, Any]) -> tuple[str, str]:
    """The distance against evaluations, with the floor, and against seconds, as SVG."""
    counted: dict[str, dict[str, list[float]]] = {}
    timed: dict[str, dict[str, list[float]]] = {}
    for row in result["rows"]:
        for plot, x in ((counted, row["nfe"]), (timed, row["seconds"] / result["n"])):
            curve = plot.setdefault(row["sampler"], {"x": [], "y": []})
            curve["x"].append(x)
            curve["y"].append(row["distance"])
    ends = [min(row["nfe"] for row in result["rows"]), max(row["nfe"] for row in result["rows"])]
    counted["real"] = {"x": ends, "y": [result["floor"]] * 2}
    label = f"Fréchet distance, {result['extractor']['name']} features"
    return (
        line_plot(counted, "evaluations of the network", label, label=label, log_x=True, log_y=True),
        line_plot(timed, "seconds an image", label, label=label, log_x=True, log_y=True),
    )


def sections(result: Mapping[str, Any]) -> list[Section]:
    """The page: what weakens the numbers, both curves, the table."""
    by_evaluations, by_seconds = curves(result)
    figures = [
        Figure(by_evaluations, "By evaluations", "real: real images against other real ones at the same N."),
        Figure(by_seconds, "By seconds", "Drawing alone, on this machine, whatever else it did."),
    ]
    rows: list[list[str | Cell]] = [
        [row["sampler"], str(row["nfe"]), Cell(f"{row['distance']:.4g}", f"{row['distance'] / result['floor']:.1f} x floor"), f"{row['seconds'] / result['n']:.3g}"]
        for row in result["rows"]
    ]  # fmt: skip
    found: list[Section] = []
    if result["n"] < PROTOCOL_N:
        found.append(
            Notice(f"N = {result['n']:,} is below the protocol's {PROTOCOL_N:,}: read each distance against the floor.")
        )
    return [
        *found,
        Figures(figures, "Distance"),
        Table(["Sampler", "Evaluations", "Distance", "s an image"], rows, "Every point"),
    ]
