"""A benchmark as text, as a plot of its ratios, and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.measure.speed import CONTROL, LIMIT
from eval.pages.page import Cell, Figure, Figures, Notice, Prose, Section, Table, Text, render
from eval.pages.plots import as_file, interval_plot, line_plot
from eval.pages.tables import number, side_by_side, text_table
from eval.twins.interpreters import TITLES

Result = dict[str, Any]
NAMES = {**TITLES, CONTROL: "PyTorch again", LIMIT: "PyTorch's products alone"}
BUSY = 0.5


def title_of(contestant: str) -> str:
    """A contestant's name as people read it."""
    return NAMES.get(contestant, contestant)


def quantity_of(what: str) -> str:
    """What is timed, as people read it: `evaluation 64` is evaluation, batch 64."""
    return what.replace(" ", ", batch ")


def _spread(values: Mapping[str, Any], scale: float = 1.0) -> Cell:
    """Median, and below it quartiles and extremes."""
    low, q1, q3, high = (number(scale * values[key]) for key in ("min", "q1", "q3", "max"))
    return Cell(number(scale * values["median"]), f"{q1} – {q3} ({low} – {high})")


def _rows(result: Result) -> list[tuple[str, list[Cell]]]:
    """Every quantity with a cell a contestant."""
    entries, batch_size = result["contestants"].values(), result["protocol"]["batch_size"]

    def row(what: str, scale: float) -> list[Cell]:
        return [_spread(e["seconds"][what], scale) if what in e["seconds"] else Cell("–") for e in entries]

    def peak(key: str) -> list[Cell]:
        return [Cell(f"{e['peak_bytes'][key] / 2**20:,.0f}") for e in entries]

    medians = [e["seconds"]["training"]["median"] for e in entries]
    evaluations = [what for what in result["ratios"] if what.startswith("evaluation")]
    return [
        ("training, ms a step", row("training", 1000)),
        ("training, images/s", [Cell(number(batch_size / median)) for median in medians]),
        *((f"{quantity_of(what)}, ms", row(what, 1000)) for what in evaluations),
        ("start to first step, s", row("start", 1)),
        ("peak main memory in training, MiB", peak("training")),
        ("peak main memory with sampling, MiB", peak("training_and_sampling")),
    ]


def _ratios(result: Result) -> dict[str, dict[str, Any]]:
    """Every ratio of speeds by its label."""
    return {
        f"{quantity_of(what)}: {title_of(entry['of'])} / {title_of(entry['to'])}": entry
        for what, entries in result["ratios"].items()
        for entry in entries
    }


def benchmark_text(result: Result) -> str:
    """The result as aligned columns of plain text: medians, and the ratios with their quartiles and count."""
    settings = Prose("benchmark").settings(p=result["protocol"], machine=result["machine"])
    lines = [["", *(title_of(name) for name in result["contestants"])]]
    lines += [[label, *(c.text for c in cells)] for label, cells in _rows(result)]
    ratios = [["ratio of speeds", "median", "quartiles", "count"]]
    for label, entry in _ratios(result).items():
        quartiles = f"{entry['q1']:.2f} – {entry['q3']:.2f}"
        ratios.append([label, f"{entry['median']:.2f}", quartiles, str(len(entry["values"]))])
    return "\n".join([settings, "", text_table(lines), "", text_table(ratios)])


def ratio_plot(result: Result) -> str:
    """All ratios with their quartiles, as inline SVG."""
    return interval_plot(_ratios(result), "ratio of speeds", label="ratios of speeds with quartiles", mark=1.0)


def ratio_picture(result: Result) -> str:
    """All ratios with their quartiles, as an SVG file."""
    return as_file(ratio_plot(result))


def _repetitions(result: Result, prose: Prose) -> Figures:
    """Every repetition of training and of sampling."""

    def plot(what: str) -> str:
        curves: dict[str, dict[str, Any]] = {}
        for name, entry in result["contestants"].items():
            milliseconds = [1000 * value for value in entry["seconds"][what]["values"]]
            curves[title_of(name)] = {"x": list(range(1, len(milliseconds) + 1)), "y": milliseconds}
        return line_plot(curves, "repetition", "ms", label=f"{quantity_of(what)}, ms", log_y=True)

    timed = [what for what in result["ratios"] if what != "start"]
    figures = [Figure(plot(what), quantity_of(what).capitalize(), "Lower is better.") for what in timed]
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
    rows = [(label, _spread(entry), str(len(entry["values"]))) for label, entry in _ratios(result).items()]
    figure = Figure(ratio_plot(result), "Ratios of speeds", "Bars are quartiles. Above 1, the first is faster.")
    return [
        *sections,
        Figures([figure], "Which is faster?", prose.ratios(), wide=True),
        Table(["Ratio of speeds", "Median", "Repetitions"], rows, "The ratios"),
        Table(
            columns, [[label, *cells] for label, cells in _rows(result)], "How fast?", prose.speeds(settings=settings)
        ),
        _repetitions(result, prose),
        Table(columns, side_by_side(environments), "How it was made", f"{result['command']} on {machine['system']}."),
        Text(prose.timed(), "What is timed"),
    ]


def write_benchmark_page(path: Path, result: Result) -> None:
    """Write the page of a benchmark.

    Raises:
        OSError: the page cannot be written.
    """
    title = f"Speed of {', '.join(title_of(name) for name in result['contestants'])}"
    render(path, title, benchmark_sections(result), lead="The same recipe, batches and sampler.")
