"""The verb `benchmark`: benchmark.json, report.html and a table from `eval.measure.speed.measure`.

Imports core and eval's own modules only: no framework, no twin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.config.recipes import load_recipe
from core.files import write_atomically
from eval.measure.speed import measure
from eval.pages.compare_page import number
from eval.pages.page import Cell, Figure, Figures, Notice, Section, Table, Text, render
from eval.pages.plots import line_plot
from eval.twins.client import Framework

Result = dict[str, Any]
TITLES = {"torch": "PyTorch", "tensorflow": "TensorFlow", "diffusers": "diffusers"}
TRAINING, SAMPLING = "training_images_per_second", "sampling_seconds_per_image"
BUSY = 0.5
NOISE = (
    "Timings on a shared or virtual machine are noisy: the same product of matrices can take twice as long a minute later. "
    "The frameworks were timed in turn, repetition by repetition, so only the ratios, taken within each repetition, "
    "count. Read 0.9 to 1.1 as equal."
)


SMALL_PRINT = "Small print: half of the repetitions lie in the first range, all in the one in brackets."


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
        (f"{what}: {TITLES[entry['of']]} / {TITLES[entry['to']]}", _spread(entry))
        for what, entries in result["ratios"].items()
        for entry in entries
    ]


def _settings(result: Result) -> str:
    """One line that says what was timed, on what."""
    p, machine = result["protocol"], result["machine"]
    height, width, channels = p["image_shape"]
    return (
        f"{p['parameters']:,} parameters, {height} x {width} x {channels}, {p['dtype']}, batch {p['batch_size']} in "
        f"training and {p['sampling_batch_size']} in sampling ({p['nfe']} evaluations an image), {p['threads']} threads "
        f"each; {machine['processor']}, {machine['cores']} cores; medians of {p['repetitions']} interleaved repetitions "
        f"of {p['steps']} steps and of {p['samples']} images"
    )


def text_table(result: Result) -> str:
    """The result as aligned columns of plain text: medians, and the ratios with their spread."""
    rows = [["", *(TITLES[name] for name in result["contestants"])]]
    rows += [[label, *(c.text for c in cells)] for label, cells in _rows(result)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]  # fmt: skip
    ratios = [f"speed in {label}: {cell.text}, {cell.detail}" for label, cell in _ratio_rows(result)]
    return "\n".join([_settings(result), "", *(line.rstrip() for line in lines), "", *ratios])


def _plots(result: Result) -> Figures:
    """Every repetition, and the ratio within each."""
    entries = result["contestants"]

    def plot(values: Mapping[str, list[float]], y: str) -> str:
        curves: dict[str, dict[str, Any]] = {
            name: {"x": list(range(1, len(v) + 1)), "y": v} for name, v in values.items()
        }
        return line_plot(curves, "repetition", y, label=y)

    ratios = {
        f"{what}, {TITLES[e['of']]} / {TITLES[e['to']]}": e["values"]
        for what, all_ in result["ratios"].items()
        for e in all_
    }
    training = {TITLES[name]: e[TRAINING]["values"] for name, e in entries.items()}
    sampling = {TITLES[name]: e[SAMPLING]["values"] for name, e in entries.items() if SAMPLING in e}
    return Figures(
        [
            Figure(plot(training, "images/s"), "Training", "Higher is better."),
            Figure(plot(sampling, "seconds an image"), "Sampling", "Lower is better."),
            Figure(plot(ratios, "ratio of speeds"), "Ratios", "Above 1: the first of the two is faster."),
        ],
        "Repetition by repetition",
        "What slows the whole machine shows in every curve of a plot at the same repetition, and drops out of the ratio.",
    )


def benchmark_sections(result: Result, command: str) -> list[Section]:
    """Sections of a page that show a benchmark.

    Args:
        result: what `measure` returned.
        command: the command line that made it.
    Returns:
        Sections for `eval.pages.page.render`: warnings, numbers, ratios, plots, how it was made.
    """
    names, machine = list(result["contestants"]), result["machine"]
    sections: list[Section] = [Notice(NOISE)]
    if machine["load_before"] > BUSY:
        sections.append(
            Notice(
                f"Before the first measurement {machine['load_before']} programs were running here already (load average)."
            )
        )
    ratios: list[list[str | Cell]] = [[label, cell] for label, cell in _ratio_rows(result)]
    caption = f"Paired by repetition. Above 1: the first is faster. {SMALL_PRINT}"
    sections.append(Table(["Ratio of speeds", "Median"], ratios, "Which is faster?", caption))
    columns = ["", *(TITLES[name] for name in names)]
    caption = (
        f"{_settings(result)}. To the first step: from the start of Python to the end of the first optimiser step, imports "
        f"and compilation included. {SMALL_PRINT} Peak memory is the whole process's main memory, not a GPU's."
    )
    sections.append(Table(columns, [[label, *cells] for label, cells in _rows(result)], "How fast?", caption))
    sections.append(_plots(result))
    keys = list(dict.fromkeys(key for e in result["contestants"].values() for key in e["environment"]))
    rows = [[key, *(str(e["environment"].get(key, "–")) for e in result["contestants"].values())] for key in keys]
    sections.append(Table(columns, rows, "How it was made", f"{command} on {machine['system']}."))
    text = (
        "Random images and initial weights: speed depends on neither. A training step is all of it: making the batch and "
        "its noise, forward and backward pass, gradient clipping, Adam, moving average. Each framework runs in its own "
        "process, started and warmed up before the first repetition; while one works the others wait."
    )
    return [*sections, Text(text, "What is timed")]


def run(
    config: str,
    out: str,
    *,
    repetitions: int,
    steps: int,
    samples: int,
    threads: int,
    peer: str,
    pythons: Mapping[Framework, str | None],
    batch_size: int = 0,
    sampling_steps: int = 0,
    as_json: bool = False,
) -> str:
    """Time a recipe and write the report.

    Args:
        config: a recipe's file.
        batch_size, sampling_steps: in place of the recipe's; 0 for the recipe's.
        out: folder for benchmark.json and report.html.
        repetitions, steps, samples, threads, peer, pythons: as eval.measure.speed.measure.
        as_json: return benchmark.json's text rather than the table.
    Returns:
        What to print on stdout.
    Raises:
        ValueError: input that the user must change; RuntimeError: a worker failed; OSError: the report cannot be written.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {out}: is a file: must be a folder, or a name that is free")
    recipe = load_recipe(config)
    training = replace(recipe.training, batch_size=batch_size or recipe.training.batch_size)
    sampling = replace(recipe.sampling, steps=sampling_steps or recipe.sampling.steps)
    recipe = replace(recipe, training=training, sampling=sampling)
    result = measure(
        recipe, repetitions=repetitions, steps=steps, samples=samples, threads=threads, peer=peer, pythons=pythons
    )
    command = (
        f"python -m eval benchmark --config {config} --repetitions {repetitions} --steps {steps} --samples {samples} "
        f"--batch-size {training.batch_size} --sampling-steps {sampling.steps} --threads {threads} --peer {peer}"
    )
    result["command"] = command
    text = json.dumps(result, indent=1, allow_nan=False)
    write_atomically(folder / "benchmark.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    title = f"Speed of {' and '.join(TITLES[name] for name in result['contestants'])}"
    render(
        folder / "report.html",
        title,
        benchmark_sections(result, command),
        lead="The same network, batches and sampler.",
    )
    return text if as_json else f"{text_table(result)}\n\nreport: {folder / 'report.html'}"
