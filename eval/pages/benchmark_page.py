"""A benchmark as text and as sections of a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.pages.page import Cell, Figure, Figures, Notice, Prose, Section, Table, Text, render
from eval.pages.plots import line_plot
from eval.pages.tables import number, side_by_side, text_table
from eval.twins.interpreters import TITLES

Result = dict[str, Any]
TRAINING, SAMPLING = "training_images_per_second", "sampling_seconds_per_image"
BUSY = 0.5


def title_of(contestant: str) -> str:
    """A contestant's name as people read it."""
    return TITLES.get(contestant, contestant)


def _spread(values: Mapping[str, Any], scale: float = 1.0) -> Cell:
    """Median, and below it quartiles and extremes."""
    low, q1, q3, high = (number(scale * values[key]) for key in ("min", "q1", "q3", "max"))
    return Cell(number(scale * values["median"]), f"{q1} – {q3} ({low} – {high})")


def _rows(result: Result) -> list[tuple[str, list[Cell]]]:
    """Every quantity with a cell a contestant."""
    entries, nfe = result["contestants"].values(), result["protocol"]["nfe"]
    none = Cell("–", "training only")

    def sampling(scale: float) -> list[Cell]:
        return [_spread(e[SAMPLING], scale) if SAMPLING in e else none for e in entries]

    def peak(key: str) -> list[Cell]:
        return [Cell(f"{e['peak_bytes'][key] / 2**20:,.0f}") if key in e["peak_bytes"] else none for e in entries]

    return [
        ("training, images/s", [_spread(e[TRAINING]) for e in entries]),
        ("sampling, s an image", sampling(1.0)),
        ("sampling, ms an image and evaluation", sampling(1000 / nfe)),
        ("seconds to the first step", [Cell(f"{e['first_step_seconds']:.1f}") for e in entries]),
        ("peak main memory in training, MiB", peak("training")),
        ("peak main memory with sampling, MiB", peak("training_and_sampling")),
    ]


def _ratio_rows(result: Result) -> list[tuple[str, Cell]]:
    """Every ratio of speeds."""
    return [
        (f"{what}: {title_of(entry['of'])} / {title_of(entry['to'])}", _spread(entry))
        for what, entries in result["ratios"].items()
        for entry in entries
    ]


def benchmark_text(result: Result) -> str:
    """The result as aligned columns of plain text: medians, and the ratios with their spread."""
    settings = Prose("benchmark").settings(p=result["protocol"], machine=result["machine"])
    lines = [["", *(title_of(name) for name in result["contestants"])]]
    lines += [[label, *(c.text for c in cells)] for label, cells in _rows(result)]
    ratios = [f"speed in {label}: {cell.text}, {cell.detail}" for label, cell in _ratio_rows(result)]
    return "\n".join([settings, "", text_table(lines), "", *ratios])


def _plots(result: Result, prose: Prose) -> Figures:
    """Every repetition, and the ratio within each."""
    entries = result["contestants"]

    def plot(values: Mapping[str, list[float]], y: str) -> str:
        curves: dict[str, dict[str, Any]] = {
            name: {"x": list(range(1, len(v) + 1)), "y": v} for name, v in values.items()
        }
        return line_plot(curves, "repetition", y, label=y)

    ratios = {
        f"{what}, {title_of(e['of'])} / {title_of(e['to'])}": e["values"]
        for what, pairs in result["ratios"].items()
        for e in pairs
    }
    training = {title_of(name): e[TRAINING]["values"] for name, e in entries.items()}
    sampling = {title_of(name): e[SAMPLING]["values"] for name, e in entries.items() if SAMPLING in e}
    figures = [
        Figure(plot(training, "images/s"), "Training", "Higher is better."),
        Figure(plot(sampling, "seconds an image"), "Sampling", "Lower is better."),
        Figure(plot(ratios, "ratio of speeds"), "Ratios", "Above 1: the first of the two is faster."),
    ]
    return Figures(figures, "Repetition by repetition", prose.repetitions())


def benchmark_sections(result: Result) -> list[Section]:
    """Sections of a page that show a benchmark.

    Args:
        result: what `eval.measure.speed.measure` returned and, as `command`, the command line that made it.
    Returns:
        Sections for `eval.pages.page.render`: warnings, ratios, numbers, plots, how it was made.
    """
    prose, machine, contestants = Prose("benchmark"), result["machine"], result["contestants"]
    sections: list[Section] = [Notice(prose.noise())]
    if machine["load_before"] > BUSY:
        sections.append(Notice(prose.busy(load=machine["load_before"])))
    columns = ["", *(title_of(name) for name in contestants)]
    settings = prose.settings(p=result["protocol"], machine=machine)
    environments = {name: entry["environment"] for name, entry in contestants.items()}
    return [
        *sections,
        Table(["Ratio of speeds", "Median"], _ratio_rows(result), "Which is faster?", prose.ratios()),
        Table(
            columns, [[label, *cells] for label, cells in _rows(result)], "How fast?", prose.speeds(settings=settings)
        ),
        _plots(result, prose),
        Table(columns, side_by_side(environments), "How it was made", f"{result['command']} on {machine['system']}."),
        Text(prose.timed(), "What is timed"),
    ]


def write_benchmark_page(path: Path, result: Result) -> None:
    """Write the page of a benchmark.

    Raises:
        OSError: the page cannot be written.
    """
    title = f"Speed of {' and '.join(title_of(name) for name in result['contestants'])}"
    render(path, title, benchmark_sections(result), lead="The same network, batches and sampler.")
